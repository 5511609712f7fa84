"""Named objects below any URL that fsspec opens, a bucket or a folder of a network disk; patience with it."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from secrets import token_hex
from typing import Any, TypeVar

from tokentrial.errors import SettingsError, TrialError
from tokentrial.store.disk import NO_ROOM
from tokentrial.store.files import PARTIAL
from tokentrial.store.folders import is_inside
from tokentrial.store.network import with_retries

T = TypeVar("T")
_WAITS_S = 0.5, 2.0, 5.0  # a stopped machine gives 30


class Objects:
    """The objects below a URL. Raises TrialError, which ends in `advice`, where it fails again and again."""

    system: Any = None
    root, url = "", ""
    folder: Path | None = None  # where it is one of this machine

    def __init__(self, url: str, advice: str) -> None:
        import fsspec

        self.url, self.advice = url, advice
        local = fsspec.utils.get_protocol(url) in ("file", "local")
        try:
            self.system, self.root = fsspec.core.url_to_fs(url, **({"auto_mkdir": True} if local else {}))
        except (ImportError, ValueError, OSError) as error:
            raise SettingsError(f"storage: {url}: {error}") from None
        self.folder = Path(self.root).resolve() if local else None

    def read(self, name: str) -> bytes | None:
        return self._tried(lambda: bytes(self.system.cat_file(f"{self.root}/{name}")))

    def write(self, name: str, data: bytes) -> None:
        """A small object, whole or not at all where the system can rename."""
        path = f"{self.root}/{name}"

        def work() -> None:
            partial = f"{path}.{token_hex(4)}{PARTIAL}"
            self.system.pipe_file(partial, data)
            self.system.mv(partial, path)

        self._tried(work, is_sent=True)

    def create(self, name: str, data: bytes) -> None:
        """A small object, unless it is there. Of two who come at once one alone creates it on a disk and on S3; other
        systems may look first and then write."""
        path = f"{self.root}/{name}"

        def work() -> None:
            self.system.invalidate_cache()
            if self.system.exists(path):
                return
            try:
                if self.folder is None:
                    self.system.pipe_file(path, data, mode="create")
                else:  # a link takes no name that is taken
                    partial = f"{path}.{token_hex(4)}{PARTIAL}"
                    self.system.pipe_file(partial, data)
                    try:
                        os.link(partial, path)
                    except FileExistsError:
                        raise
                    except OSError:  # a disk without hard links: exFAT, CIFS, gcsfuse
                        with open(path, "xb") as file:
                            try:
                                file.write(data)
                                file.flush()
                            except BaseException:  # whole or not at all
                                os.unlink(path)
                                raise
                    finally:
                        self.system.rm_file(partial)
            except OSError as error:
                # EINVAL: as s3fs passes on that the bucket holds it already
                if not isinstance(error, FileExistsError) and error.errno != errno.EINVAL:
                    raise

        self._tried(work, is_sent=True)

    def put(self, file: Path, name: str) -> None:
        self._tried(lambda: self.system.put_file(str(file), f"{self.root}/{name}"), is_sent=True)

    def get(self, name: str, file: Path, size: int) -> bool:
        """Whether an object of so many bytes was there and came. A full disk of this machine is its own OSError."""
        path = f"{self.root}/{name}"

        def work() -> bool:
            if is_whole := self.system.info(path)["size"] == size:
                self.system.get_file(path, str(file))
            return is_whole and file.is_file()

        return bool(self._tried(work, NO_ROOM))

    def size(self, name: str) -> int | None:
        return self._tried(lambda: int(self.system.info(f"{self.root}/{name}")["size"]))

    def find(self, folder: str) -> list[str]:
        """Names of the objects below a folder."""

        def work() -> list[str]:
            self.system.invalidate_cache()
            return [path[len(self.root) :].strip("/") for path in self.system.find(f"{self.root}/{folder}")]

        return list(filter(is_inside, self._tried(work) or ()))

    def delete(self, name: str) -> None:
        self._tried(lambda: self.system.rm_file(f"{self.root}/{name}"))

    def delete_folder(self, name: str) -> None:
        self._tried(lambda: self.system.rm(f"{self.root}/{name}", recursive=True))

    def _tried(self, work: Callable[[], T], as_they_are: tuple[int, ...] = (), is_sent: bool = False) -> T | None:
        """The result of `work`; None where what it looks for is not there. Where something `is_sent`, that is an error:
        there is no such bucket."""

        def tried() -> T | None:
            try:
                return work()
            except FileNotFoundError as error:
                if is_sent:
                    raise TrialError(f"storage: {self.url}: {error}; expected an existing bucket or disk") from None
                return None

        return with_retries(tried, self.url, f"storage: {self.url}", self.advice, _WAITS_S, as_they_are)


class NoObjects(Objects):
    """Of a trial without a storage: nothing is there, and nothing is done."""

    def __init__(self) -> None:
        pass

    def _tried(self, work: Callable[[], Any], as_they_are: tuple[int, ...] = (), is_sent: bool = False) -> None:
        return None
