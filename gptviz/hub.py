"""Weights from the Hugging Face hub: what is on disk, the download with progress, and the check of what came."""

import hashlib
import re
from collections.abc import Callable
from contextlib import suppress
from errno import ENOSPC
from pathlib import Path
from typing import Any

Progress = Callable[[int, int], None]  # bytes so far, bytes in all

_FILES = ("config.json", "model.safetensors")
_CHECKSUM = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")


class DownloadError(RuntimeError):
    """A model could not be fetched; the message says what happened and what to do."""


def cached_folder(repo: str) -> Path | None:
    """Where the repository's model lies on this machine, or None. Never asks the network."""
    from huggingface_hub import try_to_load_from_cache

    found = [try_to_load_from_cache(repo, file) for file in _FILES]
    if all(isinstance(path, str) for path in found):
        return Path(str(found[-1])).parent
    return None


def download(repo: str, progress: Progress | None = None) -> Path:
    """Fetch the repository's model into huggingface_hub's cache; give back its folder there.

    `progress` hears of the weights' bytes as they come. A connection that breaks is taken up
    where it stopped. What came is compared with the checksum that the hub gives, and thrown
    away when it differs. Raises `DownloadError`.
    """
    try:
        folders = {_download_file(repo, file, progress).parent for file in _FILES}
    except DownloadError:
        raise
    except Exception as error:  # the hub's client raises its transport's own classes
        raise DownloadError(_sentence(repo, error)) from error
    if len(folders) > 1:
        raise DownloadError(f"{repo} was changed on the hub while it was downloaded: try again.")
    return folders.pop()


def remove_damaged(repo: str) -> bool:
    """Remove files of the repository from the cache that are not what was downloaded; whether there were any.

    The cache names each file by its checksum, so this needs no network.
    """
    from huggingface_hub import try_to_load_from_cache

    found = [Path(path) for file in _FILES if isinstance(path := try_to_load_from_cache(repo, file), str)]
    damaged = [path for path in found if (known := known_checksum(path)) and checksum_of(path, len(known)) != known]
    for path in damaged:
        _remove(path)
    return bool(damaged)


def look_through_once(folder: Path, look: Callable[[], object]) -> None:
    """Call `look`, unless the weights in this folder of the cache have stood it before; what it raises comes through.

    That they have is remembered by their checksum, which the cache gives as the file's name. Where the cache has no
    such names or cannot be written, `look` is called each time.
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
    """The checksum that the hub gave for a file (see `checksum_of`), or None. Never asks the network.

    In the cache a file is a link to its content, which is named by it; where `hf download --local-dir` put it, it
    stands in a file beside it.
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

    # The repositories are public, so whoever is logged in to the hub on this machine is nobody's business: token=False.
    metadata = get_hf_file_metadata(hf_hub_url(repo, file), token=False)
    # By its branch, not by metadata.commit_hash: the cache then knows which commit the branch is, without a network.
    tqdm_class = _reporting_to(progress) if progress and file == _FILES[-1] else None
    path = Path(hf_hub_download(repo, file, tqdm_class=tqdm_class, token=False))
    if path.parent.name != metadata.commit_hash:
        raise DownloadError(f"{repo} was changed on the hub while it was downloaded: try again.")
    # huggingface_hub checks the size alone.
    if metadata.etag and checksum_of(path, len(metadata.etag)) != metadata.etag:
        _remove(path)
        raise DownloadError(
            f"The download of {file} from {repo} came damaged (its checksum is wrong) and was removed: try again."
        )
    return path


def _reporting_to(progress: Progress) -> type[Any]:
    """A silent progress bar class, as huggingface_hub takes it, that tells `progress` instead."""
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
    """What the hub gives as ETag: the sha256 of a large file, the sha1 of a small one as Git stores it."""
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
