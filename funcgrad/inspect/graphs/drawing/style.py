"""The colours and fonts of the pictures, light and dark, for any page that a picture stands in."""

LIGHT = """
  --paper: #ffffff; --ink: #1f2328; --faint: #6b7480; --line: #6d8fc0; --back: #d4500c;
  --value: #eef3fb; --value-line: #aebfd8; --given: #e4f4ea; --given-line: #5aa877;
  --fixed: #f1f2f4; --fixed-line: #b4bbc4; --op: #ffffff; --op-line: #3d4653;
  --group: #f1ecfb; --group-line: #8d74c7; --frame: #f7f8fa; --frame-line: #d5dae1;
  --number: #0b57b0;
"""

DARK = """
  --paper: #12161c; --ink: #e8ebef; --faint: #98a2ae; --line: #6f93c9; --back: #ff9457;
  --value: #1d2734; --value-line: #4b6180; --given: #173024; --given-line: #4f9c6f;
  --fixed: #23272d; --fixed-line: #565e68; --op: #262c35; --op-line: #a5afbc;
  --group: #2a2340; --group-line: #9c85d6; --frame: #171c23; --frame-line: #343c47;
  --number: #7db8ff;
"""

RULES = """
.funcgrad-graph { max-width: 100%; height: auto; }
.funcgrad-graph text { fill: var(--ink); font: 12px system-ui, -apple-system, "Segoe UI", Roboto,
  "Helvetica Neue", Arial, sans-serif; white-space: pre; }
.funcgrad-graph .paper { fill: var(--paper); }
.funcgrad-graph .box { fill: var(--value); stroke: var(--value-line); }
.funcgrad-graph .op .box { fill: var(--op); stroke: var(--op-line); stroke-width: 1.3; }
.funcgrad-graph .group .box, .funcgrad-graph .behind { fill: var(--group); stroke: var(--group-line);
  stroke-width: 1.2; }
.funcgrad-graph .argument .box { fill: var(--given); stroke: var(--given-line); }
.funcgrad-graph .constant .box, .funcgrad-graph .literal .box { fill: var(--fixed);
  stroke: var(--fixed-line); }
.funcgrad-graph .result .box { stroke: var(--ink); stroke-width: 2.2; }
.funcgrad-graph .entering .box, .funcgrad-graph .leaving .box { stroke-dasharray: 4 3; }
.funcgrad-graph .several .box { stroke-width: 2; }
.funcgrad-graph .op.quiet .box { stroke: var(--frame-line); stroke-width: 1; }
.funcgrad-graph .op.quiet .name { fill: var(--faint); font-size: 11px; font-weight: 400; }
.funcgrad-graph .tensor.quiet .box { fill: var(--paper); stroke: none; }
.funcgrad-graph .tensor.quiet .variable { fill: var(--faint); font-weight: 400; }
.funcgrad-graph .label { text-anchor: middle; }
.funcgrad-graph .op .name, .funcgrad-graph .group .name { font-weight: 600; }
.funcgrad-graph .tensor text { font-family: ui-monospace, "SF Mono",
  SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", "Liberation Mono", monospace; }
.funcgrad-graph .variable { font-weight: 600; }
.funcgrad-graph .tensor .type, .funcgrad-graph .note { fill: var(--faint); font-size: 10px; }
.funcgrad-graph .tensor .value { fill: var(--number); font-size: 11px; }
.funcgrad-graph .tensor .gradient { fill: var(--back); font-size: 11px; }
.funcgrad-graph .frame rect { fill: var(--frame); stroke: var(--frame-line); }
.funcgrad-graph .heading { fill: var(--faint); font-size: 11px; font-weight: 600;
  stroke: var(--frame); stroke-width: 4px; stroke-linejoin: round; paint-order: stroke; }
.funcgrad-graph .edge { fill: none; stroke-width: 1.3; }
.funcgrad-graph .edge.forward { stroke: var(--line); }
.funcgrad-graph .edge.backward { stroke: var(--back); }
.funcgrad-graph marker.forward { fill: var(--line); }
.funcgrad-graph marker.backward { fill: var(--back); }
"""

DARK_PAGES = '[data-jp-theme-light="false"], .vscode-dark, .dark, [data-theme="dark"]'
"""How Jupyter, Visual Studio Code, marimo and others mark a dark page."""

STYLE = (
    f".funcgrad-graph {{{LIGHT}}}\n"
    f"@media (prefers-color-scheme: dark) {{ .funcgrad-graph {{{DARK}}} }}\n"
    f":is({DARK_PAGES}) .funcgrad-graph {{{DARK}}}\n"
    '[data-jp-theme-light="true"] .funcgrad-graph, .vscode-light .funcgrad-graph, '
    f'.light .funcgrad-graph, [data-theme="light"] .funcgrad-graph {{{LIGHT}}}\n{RULES}'
)
"""The style of all pictures."""
