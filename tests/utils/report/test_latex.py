"""The float for a paper, checked as TeX would: environments, braces, cells of every row and what a rule spans."""

import re
import shutil
import subprocess
from dataclasses import replace
from itertools import product

import pytest

from tests.utils.report.rig import OFFLINE, run
from utils.records.ledger import Axes
from utils.records.selection import select
from utils.report import write_text
from utils.report.latex import escape, to_latex
from utils.report.tables import build_table

HOSTILE = "a|b\n<b>\\end{tabular} $x_1$ 5% & # ~^ `c` {} -- \ud800"
SPAN = re.compile(r"\\multicolumn\{(\d+)\}")


def latex_of(*runs, group="study", **more):
    return to_latex(build_table(select(runs, Axes(("kappa",))), **more), group)


def body_of(text):
    """Without comments, and with what is escaped as a letter."""
    lines = [line for line in text.splitlines() if not line.startswith("%")]
    return re.sub(r"\\[&%$#_{}]", "x", "\n".join(lines))


def width_of(cells):
    """Columns of a row, those that a cell spans counted."""
    return sum(int(SPAN.match(cell.strip())[1]) if SPAN.match(cell.strip()) else 1 for cell in cells)


def check(text):
    """Whether TeX would take it; gives the number of columns of each tabular."""
    body = body_of(text)
    assert all(body[:end].count("{") >= body[:end].count("}") for end in range(len(body) + 1))
    assert body.count("{") == body.count("}")
    assert body.count("$") % 2 == 0
    assert not set(re.sub(r"\$[^$]*\$|\\\w+|tab:\S+", "", body)) & set("%#~^_`")
    opened = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", body):
        opened.append(name) if kind == "begin" else opened.remove(opened[-1] if opened[-1] == name else "nothing")
    assert not opened
    found = []
    for specification, rows in re.findall(r"\\begin\{tabular\}\{(\w+)\}(.*?)\\end\{tabular\}", body, re.DOTALL):
        lines = [line for line in rows.strip().splitlines() if "rule" not in line]
        assert all(line.endswith(r" \\") for line in lines)
        assert {width_of(line[: -len(r" \\")].split("&")) for line in lines} == {len(specification)}
        rules = [tuple(map(int, ends)) for ends in re.findall(r"\\cmidrule\(lr\)\{(\d+)-(\d+)\}", rows)]
        assert all(3 <= first < last <= len(specification) for first, last in rules)
        found.append(len(specification))
    return found


def columns(**values):
    names = list(values)
    lists = [[]]
    for name in names:
        lists = [[*each, (name, value)] for each in lists for value in values[name]]
    return [run(norm, 0, {"A_f": 50.0}, **dict(each)) for each in lists for norm in ("BN", "TBBN")]


@pytest.mark.parametrize(
    ("runs", "widths"),
    [
        ([], [2]),
        ([run("BN", 0, {"A_f": 1.0}, buffer_size=None)], [4]),
        (columns(model=["er", "er_ace"], buffer_size=[200, None], epochs=[1, 50]), [10, 10]),
        (columns(dataset=["a", "b"], model=["er", "derpp", "er_ace"], buffer_size=[500, 2000]), [8, 8, 8, 8]),
        (columns(dataset=["a"], model=list("mnopqrs")), [10, 8]),
    ],
    ids=["none", "one", "levels", "by dataset", "one dataset"],
)
def test_every_table_is_sound_and_none_has_more_columns_than_one_can_read(runs, widths):
    assert check(latex_of(*runs)) == widths


def test_heads_are_over_what_they_are_of():
    text = latex_of(*columns(model=["er", "er_ace"], buffer_size=[200, 500]))
    assert r" &  & \multicolumn{8}{c}{Split Digits} \\" in text
    assert (
        "\\multicolumn{4}{c}{ER} & \\multicolumn{4}{c}{ER-ACE} \\\\\n\\cmidrule(lr){3-6} \\cmidrule(lr){7-10}" in text
    )
    assert "norm & settings & Class-IL & Task-IL & Class-IL" in text


def test_every_figure_is_in_one_of_several_tabulars():
    runs = [run("BN", 0, {"A_f": 10.0 + place}, model=f"m{place:02}") for place in range(20)]
    found = re.findall(r"\d\d\.00", latex_of(*runs))
    assert sorted(found) == sorted([f"{10 + place}.00" for place in range(20)] * 2)


def test_hostile_names_stay_text():
    names = dict.fromkeys(("dataset", "model", "buffer_mode"), HOSTILE)
    runs = [run(norm, 0, {"A_f": 1.0}, **names) for norm in (HOSTILE, "BN")]
    text = latex_of(*runs, run("GN", 0, None, state="started", reason=HOSTILE), group=HOSTILE, unreadable=[HOSTILE])
    check(text)
    assert body_of(text).count(r"\end{tabular}") == 1
    assert len(re.findall(r"\\label\{tab:[A-Za-z0-9._/-]+\}", text)) == 1


def test_special_characters():
    assert escape(HOSTILE) == (
        r"a\textbar{}b \textless{}b\textgreater{}\textbackslash{}end\{tabular\} \$x\_1\$ 5\% \& \# "
        r"\textasciitilde{}\textasciicircum{} \textasciigrave{}c\textasciigrave{} \{\} -{}- \textbackslash{}ud800"
    )
    assert escape("1 ± 2 − 3 – 4") == r"1 $\pm$ 2 $-$ 3 -- 4"
    assert [escape(name) for name in ("*a*", "[a]", "CN*")] == ["{*}a*", "{[}a]", "CN*"]
    assert escape("seq-cifar10 --nf 4 ---") == "seq-cifar10 -{}-nf 4 -{}-{}-"


def test_caption_label_and_packages():
    text = latex_of(run("BN", 0, {"A_f": 1.0}, kappa=1), run("BN", 0, {"A_f": 2.0}, kappa=2), group="my_study.2")
    assert text.startswith("% needs \\usepackage{booktabs} and \\usepackage{adjustbox}\n\\begin{table}")
    assert r"\caption{Final average accuracy $A_f$, in percent: one seed, best in bold.}" in text
    assert "The settings column gives the number of settings tried." in text
    assert r"\label{tab:my_study.2}" in text


def test_published_figures_have_a_row_under_ours_and_notes_are_comments():
    metrics = {"A_f": 37.26, "A": [1.0] * 10}
    text = latex_of(run("TBBN", 0, metrics, **OFFLINE), run("LN", 0, metrics, **OFFLINE))
    check(text)
    assert r"\quad published &  & 38.46 ($-$1.20) &  \\" in text
    assert any(line.startswith("Published: Cha et al.") for line in text.splitlines())


def test_a_wide_study_has_a_float_for_each_dataset_with_its_own_notes():
    runs = columns(dataset=["a", "seq-cifar10"], model=["er", "derpp", "er_ace"], buffer_size=[500, 2000])
    runs = [*runs, *(run("GN", 0, {"A_f": 50.0}, dataset="a", buffer_size=500, kappa=kappa) for kappa in (1, 2))]
    text = latex_of(*runs)
    check(text)
    assert text.count(r"\begin{table}") == 2
    assert re.findall(r"\\label\{(.*)\}", text) == ["tab:study-a", "tab:study-seq-cifar10"]
    assert r"\caption{Split CIFAR-10: Final average accuracy $A_f$" in text
    assert text.count("Hyperparameters of GN") == 1


def test_names_of_readers_are_text_and_go_before_those_of_papers():
    table = replace(
        build_table(select([run("AdaB2N", 0, {"A_f": 1.0}, model="er_ace")])), names={"er_ace": "50% & A_f"}
    )
    text = to_latex(table, "g")
    check(text)
    assert r"{50\% \& A\_f}" in text
    assert "AdaB$^2$N & 1" in text


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="there is no LaTeX")
def test_a_full_study_compiles_without_a_line_that_is_too_wide(tmp_path):
    datasets, norms = ("seq-cifar10", "seq-cifar100", "seq-miniimg"), ("BN", "LN", "IN", "GN", "CN", "AdaB2N", HOSTILE)
    runs = [
        run(norm, seed, {"A_f": 40.0 + seed * kappa}, dataset=dataset, model=model, buffer_size=size, kappa=kappa)
        for dataset in datasets
        for model, size in product(("derpp", "er_ace"), (500, 2000, 5000))
        for norm, seed, kappa in product(norms, range(3), (1, 2))
    ]
    write_text(tmp_path / "table.tex", latex_of(*runs, group="full study"))
    packages = r"\usepackage{booktabs}\usepackage{adjustbox}"
    document = rf"\documentclass{{article}}{packages}\begin{{document}}\input{{table}}\end{{document}}"
    write_text(tmp_path / "main.tex", document)
    words = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "main.tex"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout
