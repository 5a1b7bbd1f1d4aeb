"""The demo: draw faces in the browser, vary and repair them, and go from one to another.

A Space carries this folder beside app.py, without the rest of the package: only relative imports lead within it.
"""
