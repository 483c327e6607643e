"""The files of a sweep: in its folder beside the runs, and in the repository where its numbers are kept."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

from atrous.config.place import CLONE
from atrous.disk import make_folder, write_whole
from atrous.sweep.plan import Plan
from atrous.sweep.record import SweepReport
from atrous.sweep.render import comma_separated, latex, markdown, terminal
from atrous.sweep.report import make_report

KEPT = CLONE / "benchmarks" / "results" / "sweep"
README = CLONE / "README.md"


def write_report(plan: Plan) -> SweepReport:
    """Write report.json, table.md, table.tex, table.csv and index.html into the sweep's folder."""
    from atrous.sweep.page import make_page  # imports torch, by way of atrous.draw: a sweep is planned without

    report, folder = make_report(plan), make_folder(plan.folder, "sweeps")
    texts = {"report.json": as_json(report), "table.md": markdown(report), "table.tex": latex(report)}
    texts |= {"table.csv": comma_separated(report), "index.html": make_page(plan, report)}
    for name, text in texts.items():
        write_whole(folder / name, text.encode())
    return report


def as_json(report: SweepReport) -> str:
    return json.dumps(report.to_dict(), indent=1, ensure_ascii=False) + "\n"


def read_report(path: Path) -> SweepReport:
    return SweepReport.from_dict(json.loads(path.read_text()))


def summary(plan: Plan, report: SweepReport) -> str:
    """The table for the terminal, and where the files are."""
    cells = [cell for row in report.rows for cell in row.cells]
    lacking = sum(cell.state != "finished" for cell in cells)
    missing = f"{lacking} of {len(cells)} runs have no result: the same command goes on\n" if lacking else ""
    return (
        f"\n{terminal(report)}\n{missing}\n{plan.folder}/\n"
        "  index.html    the page: table, curves, classes, pictures side by side\n"
        "  table.md  table.tex  table.csv    report.json    and in log/ the output of each run"
    )


# ---- numbers that are kept --------------------------------------------------------------------------------------
def kept_name(command: str) -> str:
    """`atrous sweep sweeps=v2_table3 small=shapes seed=0,1` -> v2_table3,small=shapes,seed=0,1"""
    return ",".join(shlex.split(command)[2:]).removeprefix("sweeps=").replace("/", ".")


def check_clone() -> None:
    if not README.exists():
        raise ValueError(f"`keep=true` needs a clone of the repository, whose README it writes: there is no {README}")


def keep(report: SweepReport) -> list[Path]:
    """Put the numbers into benchmarks/results/sweep/, and the table into the README's block of this command, if it has
    one."""
    check_clone()
    if not any(row.seeds for row in report.rows):
        raise ValueError("`keep=true`, but no run of this sweep has ended: there is nothing to keep yet")
    path = make_folder(KEPT, "keep") / f"{kept_name(report.command)}.json"
    write_whole(path, as_json(report).encode())
    text = README.read_text()
    with_table = renew_tables(text)
    if with_table != text:
        write_whole(README, with_table.encode())
    return [path, README]


BLOCK = re.compile(r"(<!-- results: (.+?) -->\n).*?(<!-- /results -->)", re.DOTALL)


def renew_tables(readme: str) -> str:
    """Fill each block from `<!-- results: name of the file -->` to `<!-- /results -->` with the table of the kept
    results."""

    def block(match: re.Match[str]) -> str:
        table = markdown(read_report(KEPT / f"{match[2]}.json"))
        return f"{match[1]}\n{table}\n{match[3]}"

    return BLOCK.sub(block, readme)
