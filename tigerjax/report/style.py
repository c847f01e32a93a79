"""The page's one style sheet: sober, light and dark, from a telephone's width up."""

CSS = """
:root { color-scheme: light dark; --paper: #fbfaf7; --card: #ffffff; --ink: #1d1b18; --soft: #6a655d; --rule: #e5e0d7;
  --track: #efebe4; --right: #2c7a4b; --wrong: #b3382c; --base: #8b8f97; --holistic: #3f6fa8; --sft: #2e8a76;
  --reward: #8660a8; --rejection: #c4591c; --control: #b09a5b; }
@media (prefers-color-scheme: dark) { :root { --paper: #161513; --card: #1e1c1a; --ink: #ece7df; --soft: #a49d92;
  --rule: #35312c; --track: #2a2724; --right: #6cc08d; --wrong: #ee8175; --base: #8f949c; --holistic: #78a6dd;
  --sft: #5cbfa8; --reward: #b592d6; --rejection: #ee8a4a; --control: #cbb778; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 system-ui, -apple-system, "Segoe UI",
  "Noto Sans", "Noto Sans CJK SC", "PingFang SC", "Microsoft YaHei", sans-serif; font-variant-numeric: tabular-nums; }
main { max-width: 60rem; margin: 0 auto; padding: 3rem 1.25rem 4rem; }
h1, h2 { font-family: ui-serif, Georgia, "Noto Serif", "Songti SC", serif; font-weight: 600; line-height: 1.2; }
h1 { font-size: 2.1rem; margin: 0 0 .3rem; letter-spacing: -.01em; }
h2 { font-size: 1.35rem; margin: 0 0 .3rem; }
h3 { font-size: .95rem; margin: 1.4rem 0 .5rem; }
p { margin: 0 0 .9rem; max-width: 44rem; }
.soft, .note, .label small { color: var(--soft); }
.note { font-size: .875rem; }
section { margin-top: 2.6rem; padding-top: 1.5rem; border-top: 1px solid var(--rule); }
.verdict { display: grid; grid-template-columns: repeat(auto-fit, minmax(15.5rem, 1fr)); gap: 1px; margin: 1.8rem 0 0;
  background: var(--rule); border: 1px solid var(--rule); border-radius: .5rem; overflow: hidden; }
.verdict div { background: var(--card); padding: 1rem 1.1rem; }
.verdict dt { color: var(--soft); font-size: .85rem; }
.verdict dd { margin: .15rem 0 0; font-size: 1.45rem; font-weight: 600; line-height: 1.25; }
.verdict dd small { display: block; margin-top: .2rem; font-size: .8rem; font-weight: 400; color: var(--soft); }
.bars { margin: .9rem 0; }
.bar { display: grid; grid-template-columns: 12rem minmax(0, 1fr) 11.5rem; gap: 0 1rem; align-items: center;
  padding: .16rem 0; font-size: .92rem; }
.bar svg { display: block; }
.said { white-space: nowrap; }
.track { fill: var(--track); }
.fill { fill: var(--c, var(--base)); }
.whisker { stroke: var(--ink); stroke-width: 1.5; }
.axis { stroke: var(--soft); }
.grid { stroke: var(--rule); }
.tick { fill: var(--soft); font-size: 12px; }
.stroke { fill: none; stroke: var(--c, var(--base)); stroke-width: 2; stroke-linejoin: round;
  vector-effect: non-scaling-stroke; }
.raw { fill: none; stroke: var(--c, var(--base)); stroke-width: 1; opacity: .35; vector-effect: non-scaling-stroke; }
.c-base, .c-before, .c-wanted { --c: var(--base); }
.c-holistic, .c-realised, .c-time { --c: var(--holistic); }
.c-sft { --c: var(--sft); }
.c-reward { --c: var(--reward); }
.c-rejection-sampled, .c-after { --c: var(--rejection); }
.c-control { --c: var(--control); }
.curves { display: grid; grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr)); gap: 1.6rem 2rem;
  margin-top: 1.2rem; }
.curves h3 { margin: 0; }
.small { grid-template-columns: repeat(auto-fill, minmax(13rem, 1fr)); } h4 { margin: 0; font-size: .85rem;
  font-weight: 500; }
.lineage .node { fill: var(--card); stroke: var(--rule); } .lineage .file { fill: var(--track); }
.lineage .run { stroke: var(--rejection); } .lineage .arrow { fill: none; stroke: var(--soft); opacity: .55; }
.lineage .name { fill: var(--ink); font-size: 12px; font-weight: 600; } .lineage .tick { font-size: 11px; }
.plot { padding: .6rem .2rem 1.8rem 2.9rem; }
.plot svg { display: block; overflow: visible; }
.stacked { display: block; border-radius: 2px; }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: .2rem 1.4rem; margin: .6rem 0; padding: 0;
  font-size: .9rem; }
.legend i { display: inline-block; width: .7em; height: .7em; margin-right: .45em; border-radius: 2px; }
.s0 { fill: var(--holistic); background: var(--holistic); }
.s1 { fill: var(--rejection); background: var(--rejection); }
.s4 { fill: var(--control); background: var(--control); } .s5 { fill: var(--base); background: var(--base); }
.s2 { fill: var(--sft); background: var(--sft); } .s3 { fill: var(--reward); background: var(--reward); }
.columns .before { fill: var(--base); } .columns .after { fill: var(--rejection); }
.legend .k-before { background: var(--base); } .legend .k-after { background: var(--rejection); }
.dot { fill: var(--rejection); } .dot.refused { fill: none; stroke: var(--rejection); stroke-width: 2; }
.dot.start { fill: var(--base); }
.mark { fill: var(--ink); font-size: 12px; }
.wide { overflow-x: auto; margin: .9rem 0; }
table { border-collapse: collapse; font-size: .9rem; min-width: 60%; }
th, td { padding: .35rem .9rem .35rem 0; text-align: right; border-bottom: 1px solid var(--rule); white-space: nowrap; }
th { font-weight: 500; color: var(--soft); vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; }
.words th:last-child, .words td:last-child { text-align: left; padding-left: .9rem; }
.sample { margin: 1.2rem 0 0; border: 1px solid var(--rule); border-radius: .5rem; background: var(--card);
  overflow: hidden; }
.ask { padding: .8rem 1.1rem; border-bottom: 1px solid var(--rule); white-space: pre-wrap; overflow-wrap: anywhere; }
.lang { float: right; margin: .1rem 0 .2rem .8rem; color: var(--soft); font-size: .78rem; letter-spacing: .04em; }
.answers { display: grid; grid-template-columns: repeat(auto-fit, minmax(12rem, 1fr)); gap: 1px;
  background: var(--rule); margin: 0; }
.answers div { background: var(--card); padding: .7rem 1.1rem .9rem; min-width: 0; }
.answers dt { font-size: .8rem; color: var(--soft); display: flex; justify-content: space-between; gap: .5rem; }
.answers dd { margin: .25rem 0 0; font-size: .92rem; white-space: pre-wrap; overflow-wrap: anywhere;
  max-height: 11rem; overflow-y: auto; }
.right { color: var(--right); font-weight: 600; } .wrong { color: var(--wrong); font-weight: 600; }
.empty { color: var(--soft); font-style: italic; }
details { margin-top: 1rem; font-size: .9rem; } summary { cursor: pointer; color: var(--soft); }
footer { margin-top: 3rem; padding-top: 1.2rem; border-top: 1px solid var(--rule); font-size: .875rem;
  color: var(--soft); }
footer p { max-width: none; overflow-wrap: anywhere; }
@media (max-width: 640px) { main { padding: 1.8rem 1rem 3rem; } h1 { font-size: 1.7rem; }
  .bar { grid-template-columns: minmax(0, 1fr) auto; padding: .35rem 0; }
  .bar svg { grid-row: 2; grid-column: 1 / -1; }
  .verdict { grid-template-columns: 1fr; } .curves { grid-template-columns: 1fr; }
  .curves.small { grid-template-columns: 1fr 1fr; gap: 1rem; } table { min-width: 100%; }
  td:first-child, .words td:last-child { white-space: normal; } th, td { padding-right: .6rem; } }
@media print { body { background: none; } section, .sample { break-inside: avoid; } .answers dd { max-height: none; } }
"""
