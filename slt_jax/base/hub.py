"""Weights by name: from torch's hub cache or HuggingFace's, and else from the network.

Every function raises UserError with one line that says which file to put where, so that it also works by hand on a
machine without a network.
"""

import os
import socket
import threading
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from slt_jax.base.files import replacing
from slt_jax.errors import UserError

DINOV2_URL = "https://dl.fbaipublicfiles.com/dinov2/{model}/{file}"
WEIGHTS = ("model*.safetensors*", "pytorch_model*.bin*")  # in the order of preference
TIMEOUT = 20.0  # seconds without an answer
REACHED = 4.0  # seconds in which a host must take a connection


def torchhub_file(model: str, flag: str, *, local_files_only: bool = False) -> Path:
    """The path of a DINOv2 hub model's weights, such as `dinov2_vits14_reg`, where torch.hub keeps them."""
    plain = model.removesuffix("_reg")
    name = f"{plain}_reg4_pretrain.pth" if model != plain else f"{plain}_pretrain.pth"
    home = os.environ.get("TORCH_HOME") or os.path.join(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "torch")
    path = Path(home).expanduser() / "hub" / "checkpoints" / name
    if path.exists():
        return path
    url = DINOV2_URL.format(model=plain, file=name)
    reason = "--local-files-only forbids to download them"
    if not local_files_only:
        try:
            _download(url, path)
            return path
        except OSError as error:  # urllib's errors are OSErrors
            reason = f"cannot be downloaded ({getattr(error, 'reason', None) or error})"
    raise UserError(
        f"{flag}: the pretrained weights are not in the local cache and {reason}; put {url} at {path}, "
        f"or start from random weights with torchhub::{model}:random"
    )


def _download(url: str, path: Path) -> None:
    from tqdm import tqdm

    if reason := unreachable(url):
        raise OSError(reason)
    with urllib.request.urlopen(url, timeout=TIMEOUT) as response, replacing(path) as file:
        size = int(response.headers.get("Content-Length") or 0)
        with tqdm(total=size or None, unit="B", unit_scale=True, desc=path.name) as bar:
            got = 0
            while block := response.read(1 << 20):
                file.write(block)
                got += len(block)
                bar.update(len(block))
        if size and got != size:
            raise OSError(f"the connection broke after {got} of {size} bytes")


def unreachable(url: str) -> str:
    """Why no connection comes about to the host of `url`, or to the proxy on the way; "" if one does.

    Without a network libraries look up the name again and again, for a minute. A look-up cannot be stopped, so it runs
    in a thread that nobody waits for.
    """
    parts = urlsplit(url)
    proxies = urllib.request.getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if proxy and not urllib.request.proxy_bypass(parts.hostname or ""):
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    address = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    reasons = [f"no connection to {address[0]} in {REACHED:.0f} s"]

    def connect() -> None:
        try:
            socket.create_connection(address, timeout=REACHED).close()
            reasons.clear()
        except OSError as error:
            reasons[0] = f"no connection to {address[0]}: {error.strerror or error}"

    attempt = threading.Thread(target=connect, daemon=True)
    attempt.start()
    attempt.join(REACHED)
    return next(iter(reasons), "")


def hub_unreachable() -> str:
    """Why HuggingFace's hub cannot be asked; "" if it can, or if its own library is told not to and says so itself."""
    from huggingface_hub import constants

    return "" if constants.HF_HUB_OFFLINE else unreachable(constants.ENDPOINT)


def huggingface_folder(name: str, flag: str, *, weights: bool = True, local_files_only: bool = False) -> Path:
    """The folder of a model: `name` itself if it is a folder, else the hub id's folder in HuggingFace's cache.

    With `weights` it holds the weights, as safetensors if the hub has them; without, at least `config.json`.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if name.startswith((".", "/", "~")) or not 1 <= len(name.split("/")) <= 2:
        raise UserError(f"{flag} {name}: no such folder")
    kinds = [["config.json", files] for files in WEIGHTS] if weights else [["config.json"]]
    reason = ""
    for local in (True, False):  # no network needed for what is in the cache
        away = "" if local or local_files_only else hub_unreachable()
        reason = away or reason
        if local or not (local_files_only or away):
            for patterns in kinds:
                snapshot, reason = _snapshot(name, patterns, local)
                if snapshot and _complete(snapshot, weights):
                    return snapshot
    if local_files_only:
        reason = "--local-files-only forbids to download it"
    raise _not_there(name, flag, "config.json and model.safetensors" if weights else "config.json", reason)


def huggingface_file(repo: str, filename: str, flag: str, *, local_files_only: bool = False) -> Path:
    """One file of a hub repository, from HuggingFace's cache or the network."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    reason = "--local-files-only forbids to download it"
    with suppress(OSError, ValueError):  # hf_hub_download asks the network even for what is in the cache
        if isinstance(cached := try_to_load_from_cache(repo, filename), str):
            return Path(cached)
    if not local_files_only and not (reason := hub_unreachable()):
        try:
            return Path(hf_hub_download(repo, filename))
        except (OSError, ValueError) as error:
            reason = _first_line(error)
    raise _not_there(repo, flag, filename, reason)


def _snapshot(name: str, patterns: list[str], local: bool) -> tuple[Path | None, str]:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=patterns, local_files_only=local)), "it has no such files"
    except (OSError, ValueError) as error:
        return None, _first_line(error)


def _complete(folder: Path, weights: bool) -> bool:
    held = any(folder.glob("*.safetensors")) or any(folder.glob("pytorch_model*.bin"))
    return (folder / "config.json").exists() and (held or not weights)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__


def _not_there(name: str, flag: str, files: str, reason: str) -> UserError:
    from huggingface_hub.constants import HF_HUB_CACHE

    return UserError(
        f"{flag}: '{name}' is not a folder, not in the cache {HF_HUB_CACHE}, and cannot be downloaded from the hub "
        f"({reason}); put {files} of https://huggingface.co/{name} into a folder and name that"
    )
