"""Theme, CSS and JavaScript of the page."""

import gradio as gr

THEME = gr.themes.Base(
    primary_hue=gr.themes.colors.pink,
    secondary_hue=gr.themes.colors.pink,
    neutral_hue=gr.themes.colors.slate,
    radius_size=gr.themes.sizes.radius_md,
    font=["system-ui", "Segoe UI", "Roboto", "sans-serif"],  # of the visitor's machine: nothing is fetched elsewhere
    font_mono=["ui-monospace", "monospace"],
).set(
    button_primary_background_fill="*primary_700",
    button_primary_background_fill_hover="*primary_800",
    button_primary_background_fill_dark="*primary_700",
    button_primary_text_color="white",
    color_accent="*primary_700",
    slider_color="*primary_600",
    checkbox_border_color="*neutral_400",
    checkbox_border_color_dark="*neutral_400",
    block_label_text_color="*neutral_700",
    block_label_text_color_dark="*neutral_200",
)
CSS = """
.gradio-container {width: 100% !important; max-width: 1080px !important; margin: 0 auto !important}
.dark {--color-accent: var(--primary-400)}
#title h1 {margin: .2em 0 0}
.faces .grid-wrap {height: auto; min-height: 0; max-height: none; padding-top: 28px}
.faces .grid-container {grid-template-columns: repeat(auto-fill, minmax(112px, 1fr)); gap: 6px}
.faces img {width: 100%; height: 100%; object-fit: contain}
.picture img {width: 100%; max-height: 420px; object-fit: contain}
.status {min-height: 2.6em}
.status .wrap.minimal {overflow: visible !important}
.status progress {appearance: none; width: 100%; height: 6px; border: 0; border-radius: 3px; overflow: hidden}
.status progress, .status progress::-webkit-progress-bar {background: var(--neutral-300)}
.status progress::-webkit-progress-value {background: var(--primary-600)}
.status progress::-moz-progress-bar {background: var(--primary-600)}
.status p {margin: 0; font-variant-numeric: tabular-nums}
@media (max-width: 480px) {
  .faces .grid-container {grid-template-columns: repeat(2, 1fr)}
  .gradio-container {padding: 8px !important}
  .tab-container button {padding: 0 9px !important}
}
"""
# The page's address always says what would draw the same again: what stands in the status line as `data-query`.
TO_ADDRESS = """(said) => {
  const found = /data-query="([^"]*)"/.exec(said);
  if (found) history.replaceState(null, "", "?" + found[1].replaceAll("&amp;", "&"));
}"""
# Screen readers announce changes of the status; a tab is built when it is opened.
READ_OUT = """() => {
  const mark = () => {
    for (const one of document.querySelectorAll(".status:not([role])")) one.setAttribute("role", "status");
  };
  new MutationObserver(mark).observe(document.body, {childList: true, subtree: true});
  mark();
}"""
COPY_ADDRESS = """async () => {
  try { await navigator.clipboard.writeText(location.href); return "Copied"; } catch { return location.href; }
}"""
