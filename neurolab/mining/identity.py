"""What a build is made from, and what to do with a folder that already holds one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neurolab.atlas import Atlas
from neurolab.atlas.clearing import clear, is_half_cleared
from neurolab.atlas.manifest import BUILDING, MANIFEST
from neurolab.errors import AtlasError

Identity = dict[str, dict[str, Any]]

# What the last digits of a build depend on beside model, source and settings; a finished atlas is good with
# any. A precision changes more than those.
ENGINE = ("device", "threads", "torch")
SHOWN = 8  # of the names in a setting that differs


def unfinished(out: Path) -> Identity | None:
    """What the unfinished build in the folder is made from; None where there is none."""
    path = out / BUILDING / "identity.json"
    if (out / MANIFEST).exists() or not path.exists() or is_half_cleared(out):
        return None
    try:
        found = json.loads(path.read_text("utf-8"))
        return {part: dict(found[part]) for part in ("model", "source", "settings")}
    except (ValueError, KeyError, TypeError) as error:
        raise AtlasError(f"{path} is damaged ({error}); remove {out / BUILDING} to start afresh") from error


def differences(before: Mapping[str, Any], now: Mapping[str, Any], *, engine: bool) -> list[str]:
    """What of two builds differs, in words: weights, source content, settings, and (if asked) the engine.

    Names and places do not count: a model or source that was moved is the same by its hash.
    """
    found = []
    for part, key in (("model", "weights_hash"), ("source", "hash")):
        a, b = before[part].get(key), now[part].get(key)
        if a != b:
            name = {"model": "model", "source": "source"}[part]
            label = "name" if part == "model" else "location"
            found.append(
                f"the {name} was {before[part].get(label)} ({str(a)[:12]}), "
                f"is {now[part].get(label)} ({str(b)[:12]})"
            )
    old, new = before["settings"], now["settings"]
    for key in sorted({*old, *new}):
        a, b = (sorted(x[key]) if key == "sites" and key in x else x.get(key) for x in (old, new))
        if (engine or key not in ENGINE) and a != b:
            found.append(_difference(key, old.get(key), new.get(key)))
    return found


def _difference(key: str, old: Any, new: Any) -> str:
    """How a setting differs. Of many names that are nearly the same ones, only which are not."""
    before, after = _names(old), _names(new)
    if before is None or after is None or max(len(before), len(after)) <= SHOWN:
        return f"{key} was {_shown(old)}, is {_shown(new)}"
    kept = set(before) & set(after)
    gone, added = ([name for name in names if name not in kept] for names in (before, after))
    changes = [f"{word} {_few(names)}" for word, names in (("without", gone), ("with", added)) if names]
    changed = ", ".join(changes) or "in another order"
    return f"{key} was {len(before):,} names, is {len(after):,}: {changed}"


def _names(value: Any) -> list[str] | None:
    """The names in a list, or of units, {site: their numbers}; None for anything else."""
    if isinstance(value, Mapping):
        return [f"{site}/{unit}" for site, units in value.items() for unit in units]
    return list(map(str, value)) if isinstance(value, list) else None


def _shown(value: Any) -> str:
    names = _names(value)
    return repr(value) if names is None else _few(names)


def _few(names: list[str]) -> str:
    left = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {left:,} more" if left > 0 else "")


def same_build(out: Path, identity: Identity, *, overwrite: bool) -> Atlas | None:
    """The finished atlas in `out` if it is this build; None if the build is to be begun or gone on with.

    AtlasError where the folder holds a build of something else, finished or not; with `overwrite` that is
    removed. People's labels are never removed: they stay where the weights are the same, and are a reason to
    refuse where they are not.
    """
    if (out / MANIFEST).exists():
        return _finished(out, identity, overwrite=overwrite)
    before = unfinished(out)
    if before is not None and (different := differences(before, identity, engine=True)):
        _throw_away(out, "an unfinished build", before, identity, different, overwrite=overwrite)
    return None


def _finished(out: Path, identity: Identity, *, overwrite: bool) -> Atlas | None:
    try:
        atlas = Atlas.open(out)
    except AtlasError:
        if not overwrite:
            raise
        clear(out, before="", after=identity["model"]["weights_hash"])
        return None
    if different := differences(atlas.manifest, identity, engine=False):
        _throw_away(out, "a finished atlas", atlas.manifest, identity, different, overwrite=overwrite)
        return None
    if lost := _lost_files(atlas):
        if not overwrite:
            raise AtlasError(
                f"{out} is damaged: {lost} missing, or of another size than written. Restore it from a copy, "
                "or build it again with overwrite=True (--overwrite)"
            )
        weights = identity["model"]["weights_hash"]
        clear(out, before=weights, after=weights)
        return None
    return atlas


def _throw_away(
    out: Path,
    kind: str,
    before: Mapping[str, Any],
    identity: Identity,
    different: list[str],
    *,
    overwrite: bool,
) -> None:
    if not overwrite:
        raise AtlasError(
            f"{out} holds {kind} of something else: {'; '.join(different)}. Give the same model, source and "
            "settings, choose another folder, or start afresh with overwrite=True (--overwrite)"
        )
    weights = str(before["model"].get("weights_hash") or "not told")
    clear(out, before=weights, after=identity["model"]["weights_hash"])


def _lost_files(atlas: Atlas) -> str:
    """The files that the manifest names and that are gone or cut; what is in them only `check` reads."""
    lost = []
    for name, about in atlas.manifest.get("files", {}).items():
        path = atlas.path / name
        if not path.is_file() or path.stat().st_size != about["bytes"]:
            lost.append(name)
    return ", ".join(lost[:3]) + (f" and {len(lost) - 3} more" if len(lost) > 3 else "")
