"""Start the explorer as a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from neurolab.errors import AtlasError
from neurolab.explorer.theme import streamlit_options


def launch(
    atlas_path: str | Path,
    port: int | None = None,
    headless: bool = False,
    *,
    address: str = "localhost",
    weights: str | Path | None = None,
    pretrained: str | None = None,
) -> int:
    """Serve the atlas at `atlas_path` in the browser until the user stops it; returns the exit code.

    `port` None takes Streamlit's own choice (8501 or the next free one); `headless` opens no browser. Only
    this machine reaches the server, unless `address` is another ("0.0.0.0": all can, and may write labels).
    `weights` and `pretrained` say, as in `load_model`, where the atlas's model is, for the pages that run it.
    Raises AtlasError when there is no such folder; every other fault of an atlas is told by the page.
    """
    folder = Path(atlas_path)
    if not folder.is_dir():
        raise AtlasError(f"There is no atlas at {folder}. Build one first: neurolab build --out {folder}")
    command = streamlit_command(
        folder, port, headless, address=address, weights=weights, pretrained=pretrained
    )
    try:
        return subprocess.run(command, check=False).returncode
    except KeyboardInterrupt:
        return 0


def streamlit_command(
    atlas_path: str | Path,
    port: int | None = None,
    headless: bool = False,
    *,
    address: str = "localhost",
    weights: str | Path | None = None,
    pretrained: str | None = None,
) -> list[str]:
    """The command line that serves the atlas with the interpreter that runs now."""
    # The options travel on the command line: an installed package has no .streamlit/config.toml beside it.
    options = dict(streamlit_options())
    options["server.address"] = address
    options["server.headless"] = str(headless).lower()
    if port is not None:
        options["server.port"] = str(port)
    flags = [f"--{name}={value}" for name, value in options.items()]
    script = Path(__file__).with_name("main.py")
    given = {"--weights": weights, "--pretrained": pretrained}
    model = [part for flag, value in given.items() if value is not None for part in (flag, str(value))]
    return [sys.executable, "-m", "streamlit", "run", str(script), *flags, "--", str(atlas_path), *model]
