"""What a sweep leaves beside its runs, and in the repository where its numbers are kept."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

from atrous.config.place import CLONE
from atrous.disk import make_folder, write_whole
from atrous.sweep.cell import Plan
from atrous.sweep.page import page
from atrous.sweep.report import report
from atrous.sweep.table import comma_separated, latex, markdown, terminal

KEPT = CLONE / "benchmarks" / "results" / "sweep"
README = CLONE / "README.md"


def write(planned: Plan) -> dict[str, Any]:
    """report.json, table.md, table.tex, table.csv and index.html in the sweep's folder."""
    data, folder = report(planned), make_folder(planned.folder, "sweeps")
    texts = {"report.json": as_json(data), "table.md": markdown(data), "table.tex": latex(data)}
    texts |= {"table.csv": comma_separated(data), "index.html": page(planned, data)}
    for name, text in texts.items():
        write_whole(folder / name, text.encode())
    return data


def as_json(data: dict[str, Any]) -> str:
    return json.dumps(data, indent=1, ensure_ascii=False) + "\n"


def show(planned: Plan, data: dict[str, Any]) -> str:
    """What is said at the end."""
    lacking = sum(cell["state"] != "finished" for row in data["rows"] for cell in row["cells"])
    total = sum(len(row["cells"]) for row in data["rows"])
    told = f"{lacking} of {total} runs have no result: the same command goes on\n" if lacking else ""
    return (
        f"\n{terminal(data)}\n{told}\n{planned.folder}/\n"
        "  index.html    the page: table, curves, classes, pictures side by side\n"
        "  table.md  table.tex  table.csv    report.json    and in log/ what each run said"
    )


# ---- numbers that are kept --------------------------------------------------------------------------------------
def kept_name(command: str) -> str:
    """`atrous sweep sweeps=v2_table3 small=shapes seed=0,1` -> v2_table3,small=shapes,seed=0,1"""
    return ",".join(shlex.split(command)[2:]).removeprefix("sweeps=").replace("/", ".")


def check_clone() -> None:
    if not README.exists():
        raise ValueError(f"`keep=true` needs a clone of the repository, whose README it writes: there is no {README}")


def keep(data: dict[str, Any]) -> list[Path]:
    """Its numbers in benchmarks/results/sweep/, its table in the README's block of this command, if there is one."""
    check_clone()
    if not any(row["seeds"] for row in data["rows"]):
        raise ValueError("`keep=true`, but no run of this sweep has ended: there is nothing to keep yet")
    path = make_folder(KEPT, "keep") / f"{kept_name(data['command'])}.json"
    write_whole(path, as_json(data).encode())
    text = README.read_text()
    with_table = rewritten(text)
    if with_table != text:
        write_whole(README, with_table.encode())
    return [path, README]


BLOCK = re.compile(r"(<!-- results: (.+?) -->\n).*?(<!-- /results -->)", re.DOTALL)


def rewritten(readme: str) -> str:
    """Each block between `<!-- results: name of the file -->` and `<!-- /results -->` as the kept results have it."""

    def block(found: re.Match[str]) -> str:
        data = json.loads((KEPT / f"{found[2]}.json").read_text())
        return f"{found[1]}\n{markdown(data)}\n{found[3]}"

    return BLOCK.sub(block, readme)
