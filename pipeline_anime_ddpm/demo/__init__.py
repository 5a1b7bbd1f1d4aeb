"""The demo: a page that draws faces, and an API. `api.py` is Gradio's part; `routes.py` serves the page in `web/`.

A Space carries this folder beside app.py, without the rest of the package: only relative imports lead within it.
"""
