"""How `report.html` looks: narrow and wide windows, light and dark."""

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --quiet: #5b6570; --line: #d5dae0; --paper: #fff; --shade: #f4f6f8;
  --mark: #e4f0fb; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ed; --quiet: #9aa5b1; --line: #39424d; --paper: #14181d;
  --shade: #1d232a; --mark: #173049; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 75rem; margin: 0 auto; padding: 1.5rem 1.25rem 4rem; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.25rem 0 .6rem; }
h3 { font-size: 1rem; margin: 1.25rem 0 .4rem; }
p { margin: .4rem 0; }
.quiet, .caption, figcaption, small { color: var(--quiet); }
.caption, li, figcaption { max-width: 60rem; font-size: .9rem; overflow-wrap: anywhere; }
ul, ol { margin: .3rem 0; padding-left: 1.4rem; }
.scroll { overflow-x: auto; max-width: 100%; }
table { border-collapse: collapse; border: solid; border-width: 2px 0; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .8rem; text-align: right; white-space: nowrap; vertical-align: top; }
thead th { vertical-align: bottom; font-weight: 600; }
thead tr:last-child th, table.plain thead th { border-bottom: 1px solid var(--line); }
thead th[colspan] { text-align: center; border-left: 1px solid var(--line); }
thead th[rowspan] { border-bottom: 1px solid var(--line); }
tbody tr:nth-child(even) > * { background: var(--shade); }
tbody tr > td.best { background: var(--mark); }
th:first-child[scope=row], thead tr:first-child th:first-child { position: sticky; left: 0; text-align: left;
  background: var(--paper); }
tbody tr:nth-child(even) > th[scope=row]:first-child { background: var(--shade); }
table.plain td, table.plain th { text-align: left; }
td small { display: block; font-size: .8rem; }
figure { margin: 1rem 0 1.75rem; }
img { display: block; max-width: 100%; height: auto; background: #fff; border: 1px solid var(--line); padding: .4rem;
  border-radius: 6px; }
figcaption { margin-top: .35rem; }
details { border-top: 1px solid var(--line); padding: .45rem 0; }
summary { cursor: pointer; font-weight: 600; }
summary .quiet { font-weight: 400; margin-left: .5rem; }
li code { display: block; font: .8rem/1.45 ui-monospace, monospace; background: var(--shade); border-radius: 4px;
  padding: .3rem .5rem; margin: .15rem 0 .5rem; overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1.25rem; margin: .6rem 0; font-size: .9rem; }
dd { margin: 0; overflow-wrap: anywhere; }
"""
