"""Weights from the Hugging Face hub: the cache on disk, downloads with progress, and the check of their checksums."""

import hashlib
import re
from collections.abc import Callable
from contextlib import suppress
from errno import ENOSPC
from pathlib import Path
from typing import Any

Progress = Callable[[int, int], None]  # bytes so far, total bytes

_FILES = ("config.json", "model.safetensors")
_CHECKSUM = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")


class DownloadError(RuntimeError):
    """A model could not be downloaded; the message says what happened and what to do."""


def cached_folder(repo: str) -> Path | None:
    """Return the folder of the repository's model on this machine, or None. Never uses the network."""
    from huggingface_hub import try_to_load_from_cache

    found = [try_to_load_from_cache(repo, file) for file in _FILES]
    if all(isinstance(path, str) for path in found):
        return Path(str(found[-1])).parent
    return None


def download(repo: str, progress: Progress | None = None) -> Path:
    """Download the repository's model into huggingface_hub's cache and return its folder there.

    `progress` is called as the bytes of the weights arrive. After a broken connection the download
    resumes where it stopped. A file that does not match the hub's checksum is removed. Raises
    `DownloadError`.
    """
    try:
        folders = {_download_file(repo, file, progress).parent for file in _FILES}
    except DownloadError:
        raise
    except Exception as error:  # the hub's client lets its transport's own errors through
        raise DownloadError(_sentence(repo, error)) from error
    if len(folders) > 1:
        raise DownloadError(f"{repo} was changed on the hub while it was downloaded: try again.")
    return folders.pop()


def remove_damaged(repo: str) -> bool:
    """Remove the repository's damaged files from the cache. Return whether there were any.

    The cache names each file by its checksum, so this needs no network.
    """
    from huggingface_hub import try_to_load_from_cache

    found = [Path(path) for file in _FILES if isinstance(path := try_to_load_from_cache(repo, file), str)]
    damaged = [path for path in found if (known := known_checksum(path)) and checksum_of(path, len(known)) != known]
    for path in damaged:
        _remove(path)
    return bool(damaged)


def look_through_once(folder: Path, look: Callable[[], object]) -> None:
    """Call `look`, unless the weights in this cache folder have passed it before. Its errors propagate.

    Weights that passed are remembered by their checksum, which is the file's name in the cache. If there is no such
    name, or the cache cannot be written, `look` is called each time.
    """
    checksum = known_checksum(folder / _FILES[-1])
    marker = folder.parents[1] / ".looked-through" / checksum if checksum else None
    if marker is not None and marker.exists():
        return
    look()
    if marker is not None:
        with suppress(OSError):
            marker.parent.mkdir(exist_ok=True)
            marker.touch()


def known_checksum(file: Path) -> str | None:
    """Return the checksum that the hub gave for a file (see `checksum_of`), or None. Never uses the network.

    In the cache, a file is a link to its content, and the content's file name is the checksum. For a file from
    `hf download --local-dir`, a metadata file in the same folder's `.cache` holds the checksum.
    """
    if file.is_symlink():
        word = file.resolve().name
    else:
        metadata = file.parent / ".cache" / "huggingface" / "download" / f"{file.name}.metadata"  # commit, ETag, time
        try:
            word = metadata.read_text(encoding="utf-8").splitlines()[1].strip()
        except (OSError, ValueError, IndexError):
            return None
    return word if _CHECKSUM.fullmatch(word) else None


def _remove(path: Path) -> None:
    blob = path.resolve()
    path.unlink(missing_ok=True)
    blob.unlink(missing_ok=True)


def _download_file(repo: str, file: str, progress: Progress | None) -> Path:
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    # token=False: the repositories are public, so the hub need not know who is logged in on this machine.
    metadata = get_hf_file_metadata(hf_hub_url(repo, file), token=False)
    # Ask for the branch, not metadata.commit_hash, so that the cache knows the branch's commit without a network.
    tqdm_class = _reporting_to(progress) if progress and file == _FILES[-1] else None
    path = Path(hf_hub_download(repo, file, tqdm_class=tqdm_class, token=False))
    if path.parent.name != metadata.commit_hash:
        raise DownloadError(f"{repo} was changed on the hub while it was downloaded: try again.")
    # huggingface_hub checks only the size.
    if metadata.etag and checksum_of(path, len(metadata.etag)) != metadata.etag:
        _remove(path)
        raise DownloadError(
            f"The download of {file} from {repo} came damaged (its checksum is wrong) and was removed: try again."
        )
    return path


def _reporting_to(progress: Progress) -> type[Any]:
    """Return a silent progress bar class for huggingface_hub that calls `progress` instead."""
    from huggingface_hub.utils.tqdm import tqdm

    class Reporter(tqdm):
        def __init__(self, *args: Any, name: str | None = None, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "disable": True})  # type: ignore[no-untyped-call]
            self.total, self.n = kwargs.get("total") or 0, kwargs.get("initial") or 0

        def update(self, n: float | None = 1) -> bool | None:
            self.n += n or 0
            progress(int(self.n), int(self.total))
            return None

    return Reporter


def checksum_of(path: Path, n_digits: int) -> str:
    """The checksum that the hub gives as ETag: sha256 (64 digits) of a large file, Git's sha1 of a small one."""
    with path.open("rb") as file:
        if n_digits == 64:
            return hashlib.file_digest(file, "sha256").hexdigest()
        content = file.read()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _sentence(repo: str, error: Exception) -> str:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status == 404:
        return f"The hub has no {repo}, or not in a form that gptviz reads (config.json and model.safetensors)."
    if status == 429:
        return f"The hub asks for a pause (too many requests) and did not send {repo}: try again in some minutes."
    if status is not None:
        return f"The hub answered with error {status} and did not send {repo}: try again later."
    if (isinstance(error, OSError) and error.errno == ENOSPC) or "no space left" in str(error).lower():
        return f"The disk is full, so {repo} could not be stored: free some space and try again."
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename} could not be written ({error.strerror}), so {repo} was not stored: check the folder."
    return (
        f"The hub could not be reached, so {repo} was not downloaded: check the network and try again. "
        "story-gpt, untrained models and checkpoints on this machine work without it."
    )
