"""`atrous demo`: a page in the browser that shows what a trained network sees, and what a CRF makes of it."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import tempfile
import threading
import webbrowser
from contextlib import suppress
from importlib.util import find_spec
from typing import Any

from omegaconf import DictConfig

from atrous.draw.page import template
from atrous.inference.demo_page import build_page, theme
from atrous.inference.predictor import open_predictor
from atrous.inference.studio import Studio, examples, first_crf

log = logging.getLogger("atrous")

ADDRESS = "127.0.0.1"
PORTS = range(7860, 7960)
OPEN_PAGES = 4
"""So many keep the probabilities of their picture in memory: the page that was used longest ago forgets them first."""


def demo(cfg: DictConfig) -> None:
    """Serve the page until it is interrupted."""
    if find_spec("gradio") is None:
        raise ValueError("the page needs the package gradio: pip install 'gradio>=6.31' (or: make demo RUN=…)")
    if cfg.largest is not None and not (isinstance(cfg.largest, int) and cfg.largest >= 1):
        raise ValueError(f"`largest` must be a number of pixels, or null for no limit (got {cfg.largest})")
    port = free_port(cfg.port)
    predictor = open_predictor(cfg)
    studio = Studio(predictor, None if predictor.ends_in_crf else first_crf(predictor), cfg.largest)
    gradio = import_gradio()
    signal.signal(signal.SIGTERM, end)
    with tempfile.TemporaryDirectory(prefix="atrous-demo-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # what is dropped on the page is gone when it is closed
        blocks = build_page(gradio, studio, examples(predictor, cfg.trust, cfg.largest))
        address = launch(gradio, blocks, port)
        log.info(f"{address}  (Ctrl-C ends it)")
        if cfg.open:
            open_browser(address)
        try:
            threading.Event().wait()
        finally:
            blocks.close(verbose=False)


def end(number: int, _: Any) -> None:
    """Exit on SIGTERM as on an interruption, so that what was dropped on the page is removed."""
    raise SystemExit(128 + number)


def import_gradio() -> Any:
    """Import gradio, after settings that keep it from sending anything home."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    import gradio  # an optional extra, and the environment comes first

    return gradio


def free_port(asked: int | None) -> int:
    if asked is not None and not (isinstance(asked, int) and 1 <= asked <= 65535):
        raise ValueError(f"`port` must be 1 to 65535, or null for one that is free (got {asked})")
    for port in PORTS if asked is None else (asked,):
        if is_free(port):
            return port
    if asked is None:
        raise ValueError(f"none of the ports {PORTS[0]} to {PORTS[-1]} is free: port=… names another one")
    raise ValueError(f"`port={asked}` can't be had (is another page served there?): leave it out to get a free one")


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As the server does it: a port that was closed a moment ago is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((ADDRESS, port))
        except (OSError, OverflowError):
            return False
    return True


def launch(gradio: Any, blocks: Any, port: int) -> str:
    """Serve the page on this machine, for this machine; return the address."""
    reach_directly()
    blocks.queue(api_open=False)
    blocks.launch(
        server_name=ADDRESS, server_port=port, share=False, inbrowser=False, prevent_thread_lock=True, quiet=True,
        state_session_capacity=OPEN_PAGES, max_file_size="200mb", ssr_mode=False, pwa=False, mcp_server=False,
        run_history=False, enable_monitoring=False, footer_links=[], root_path="", theme=theme(gradio),
        css=template("demo_page.css"),
    )  # fmt: skip
    return f"http://{ADDRESS}:{port}/"


def reach_directly() -> None:
    """gradio looks whether its own page answers, and would ask a proxy for it."""
    for name in ("no_proxy", "NO_PROXY"):
        known = os.environ.get(name, "")
        if ADDRESS not in known.split(","):
            os.environ[name] = f"{known},{ADDRESS}".strip(",")


def open_browser(address: str) -> None:
    """Open the page where there is a screen: a browser in a terminal would take the terminal."""
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return
    with suppress(OSError, webbrowser.Error):
        webbrowser.open(address)
