"""The report's style sheet: light and dark, from phone width to desktop, no outside reference."""

from __future__ import annotations

from typing import Final

#: Colours for op types, by rank; the last one is for all others.
N_COLOURS: Final = 8

CSS: Final = """
:root {
  color-scheme: light dark;
  --page: #f6f7f9; --card: #ffffff; --line: #e1e5ea; --text: #1c2430; --soft: #5d6878; --track: #edf0f4;
  --accent: #2563c9; --warn-bg: #fff6e0; --warn-line: #e5b94a; --warn-text: #6b4a00;
  --c0: #2f6fd6; --c1: #e0762f; --c2: #22967a; --c3: #b3509b; --c4: #c39a17; --c5: #6d62d0; --c6: #3d9dc2;
  --c7: #8b93a0;
  --heat: 37, 99, 201; --hatch: rgba(28, 36, 48, .55); --shade: rgba(28, 36, 48, .28);
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #11151b; --card: #181e26; --line: #2a323d; --text: #e6eaf0; --soft: #98a4b3; --track: #232b35;
    --accent: #78aaf5; --warn-bg: #2c2412; --warn-line: #8a6a1c; --warn-text: #f0d48a;
    --c0: #6da2f2; --c1: #f0985c; --c2: #4fc0a2; --c3: #d283bf; --c4: #dcba4b; --c5: #9d94ee; --c6: #6bc0df;
    --c7: #7d8794;
    --heat: 109, 162, 242; --hatch: rgba(230, 234, 240, .6); --shade: rgba(0, 0, 0, .75);
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text); -webkit-text-size-adjust: 100%;
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 28px 20px 64px; }
h1 { font-size: 27px; line-height: 1.2; margin: 2px 0 6px; letter-spacing: -.01em; overflow-wrap: anywhere; }
h2 { font-size: 17px; margin: 0 0 2px; }
h3 { font-size: 13px; margin: 0 0 8px; color: var(--soft); font-weight: 600; }
p { margin: 0 0 10px; }
.kicker { color: var(--accent); font-size: 12px; font-weight: 700; letter-spacing: .08em; text-transform: uppercase; }
.next .kicker { text-transform: none; letter-spacing: 0; font-size: 14px; }
.sub { color: var(--soft); overflow-wrap: anywhere; }
.note { color: var(--soft); font-size: 13px; margin: 0 0 14px; max-width: 78ch; }
.chips { display: flex; flex-wrap: wrap; gap: 6px; margin: 12px 0 0; padding: 0; list-style: none; }
.chips li { border: 1px solid var(--line); background: var(--card); border-radius: 99px; padding: 2px 11px;
  font-size: 12.5px; color: var(--soft); overflow-wrap: anywhere; }
.chips b { color: var(--text); font-weight: 600; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 18px 20px 20px;
  margin: 16px 0 0; }
header.trace { margin: 0 0 18px; }
header.trace.next { margin-top: 56px; padding-top: 28px; border-top: 2px solid var(--line); }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(300px, 1fr)); gap: 12px; margin: 16px 0 0; }
.figure { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 13px 15px 12px;
  display: flex; flex-direction: column; }
.figure .label { font-size: 13px; color: var(--soft); display: flex; justify-content: space-between; gap: 8px; }
.figure .value { font-size: 27px; font-weight: 650; line-height: 1.25; letter-spacing: -.02em;
  font-variant-numeric: tabular-nums; }
.figure .value small { font-size: 14px; font-weight: 500; color: var(--soft); letter-spacing: 0; margin-left: 3px; }
.figure .spread { font-size: 12.5px; color: var(--soft); }
.figure svg { width: 100%; height: 14px; margin-top: auto; padding-top: 4px; overflow: visible; }
.ends { display: flex; justify-content: space-between; gap: 8px; font-size: 11px; color: var(--soft);
  font-variant-numeric: tabular-nums; }
.kind { font-size: 11px; border-radius: 4px; padding: 1px 6px; background: var(--track); color: var(--soft);
  align-self: flex-start; white-space: nowrap; font-weight: 400; }
h2 .kind, h3 .kind, td .kind { vertical-align: 2px; }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr)); gap: 24px 36px; }
.bars { display: grid; grid-template-columns: minmax(92px, max-content) 1fr max-content; gap: 6px 12px;
  align-items: center; font-size: 13.5px; }
.bars .name { overflow-wrap: anywhere; max-width: 180px; line-height: 1.25; }
.bars .track { background: var(--track); border-radius: 4px; height: 18px; overflow: hidden; }
.bars .bar { display: flex; height: 100%; min-width: 2px; border-radius: 4px 3px 3px 4px; overflow: hidden; }
.bars .bar i { display: block; height: 100%; }
.bars .bar .wait { background-image: repeating-linear-gradient(135deg, var(--hatch) 0 1.5px, transparent 1.5px 5px); }
.bars .num { font-variant-numeric: tabular-nums; text-align: right; white-space: nowrap; }
.bars .num span { color: var(--soft); display: inline-block; min-width: 4.8em; }
.swatch { display: inline-block; width: 10px; height: 10px; border-radius: 3px; margin-right: 6px; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 16px; font-size: 12.5px; color: var(--soft); margin-top: 10px; }
.hatched { background-image: repeating-linear-gradient(135deg, var(--hatch) 0 1.5px, transparent 1.5px 4px); }
/* A shadow at the edge behind which something lies: the card-coloured layers scroll with the contents and cover it. */
.scroll { overflow-x: auto; -webkit-overflow-scrolling: touch;
  background: linear-gradient(to right, var(--card) 40%, transparent) 0 0 / 48px 100% no-repeat local,
    linear-gradient(to left, var(--card) 40%, transparent) 100% 0 / 48px 100% no-repeat local,
    linear-gradient(to right, var(--shade), transparent) 0 0 / 14px 100% no-repeat scroll,
    linear-gradient(to left, var(--shade), transparent) 100% 0 / 14px 100% no-repeat scroll; }
.hint { display: none; color: var(--soft); font-size: 12px; margin: 0 0 6px; }
.heat { display: grid; gap: 2px; font-size: 12px; min-width: max-content; align-items: stretch; }
.heat .row { color: var(--soft); padding-right: 10px; white-space: nowrap; position: sticky; left: 0;
  background: var(--card); line-height: 24px; }
.heat .cell { height: 24px; border-radius: 3px; }
.heat .tick { color: var(--soft); text-align: center; font-size: 11px; font-variant-numeric: tabular-nums; }
.heat .total { color: var(--soft); padding-left: 10px; line-height: 24px; font-variant-numeric: tabular-nums;
  white-space: nowrap; }
.heat + .heat { margin-top: 14px; }
.plot { display: grid; grid-template-columns: max-content 1fr; gap: 0 8px; font-size: 12px; color: var(--soft);
  font-variant-numeric: tabular-nums; }
.plot .y { display: flex; flex-direction: column; justify-content: space-between; text-align: right; height: 246px;
  min-width: 64px; margin: -8px 0; line-height: 16px; }
.plot svg { width: 100%; height: 230px; display: block; overflow: visible; }
.plot .x, .ticks { display: flex; justify-content: space-between; margin-top: 5px; }
.plot .x { grid-column: 2; }
.plot .at, .ticks .at { display: block; position: relative; height: 18px; flex: 1; }
.at span { position: absolute; white-space: nowrap; }
.grid-line { stroke: var(--line); stroke-width: 1; vector-effect: non-scaling-stroke; }
.run-line { fill: none; stroke: var(--c0); stroke-width: 1.4; vector-effect: non-scaling-stroke;
  stroke-linejoin: round; opacity: .6; }
.p50 { stroke: var(--text); stroke-width: 1.4; vector-effect: non-scaling-stroke; }
.p95 { stroke: var(--c1); stroke-width: 1.4; stroke-dasharray: 6 4; vector-effect: non-scaling-stroke; }
.dot { fill: var(--c0); }
.timeline { min-width: 760px; padding-right: 14px; }
.timeline .lane { display: grid; grid-template-columns: 68px 1fr; align-items: center; margin-bottom: 5px;
  font-size: 12px; color: var(--soft); }
.timeline .lane span { position: sticky; left: 0; background: var(--card); z-index: 1; line-height: 34px; }
.timeline svg { width: 100%; height: 34px; display: block; background: var(--track); border-radius: 4px; }
.timeline .ticks { margin-left: 68px; font-size: 12px; color: var(--soft); font-variant-numeric: tabular-nums; }
table { border-collapse: collapse; width: 100%; font-size: 13.5px; }
th { text-align: left; font-weight: 600; color: var(--soft); font-size: 12.5px; white-space: nowrap; }
th, td { padding: 6px 12px 6px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
tr:last-child td { border-bottom: 0; }
td.num, th.num { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.name { overflow-wrap: anywhere; min-width: 150px; }
td.text { overflow-wrap: anywhere; min-width: 140px; }
.meter { display: block; height: 6px; border-radius: 3px; background: var(--track); margin-top: 4px; min-width: 90px; }
.meter i { display: block; height: 100%; border-radius: 3px; background: var(--c0); min-width: 1px; }
td code, li code { font: 12.5px ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; overflow-wrap: anywhere; }
.delta { color: var(--soft); font-size: 12px; display: inline-block; min-width: 4.2em; }
.below { display: block; font-weight: 400; font-size: 12px; white-space: normal; overflow-wrap: anywhere; }
.compared td:first-child { min-width: 96px; } .compared td .kind { display: inline-block; }
.compared td.name { min-width: 150px; }
section.warnings { background: var(--warn-bg); border-color: var(--warn-line); color: var(--warn-text); }
.warnings ul { margin: 6px 0 0; padding-left: 20px; }
.warnings li { overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: minmax(110px, max-content) 1fr; gap: 3px 18px; margin: 0;
  font-size: 13.5px; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
details > summary { cursor: pointer; font-weight: 600; font-size: 17px; }
details[open] > summary { margin-bottom: 12px; }
details h3 { margin: 16px 0 6px; }
footer { color: var(--soft); font-size: 13px; margin-top: 28px; }
@media (max-width: 560px) {
  main { padding: 18px 12px 40px; } section { padding: 15px 14px 16px; } h1 { font-size: 23px; }
  .figures { grid-template-columns: 1fr 1fr; gap: 8px; } .figure { padding: 10px 12px; }
  .figure .value { font-size: 21px; }
  .figure .label { flex-direction: column; gap: 2px; }
  .bars { grid-template-columns: fit-content(38%) 1fr max-content; gap: 6px 8px; font-size: 12.5px; }
  .bars .num { line-height: 1.25; } .bars .num span { display: block; } .hint { display: block; }
  .delta { display: block; min-height: 18px; } .meter { min-width: 64px; } th, td { padding-right: 9px; }
  dl { grid-template-columns: 1fr; } dd { margin-bottom: 6px; }
}
@media print { body { background: #fff; } section, .figure { break-inside: avoid; } }
"""
