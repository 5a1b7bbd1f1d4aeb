.PHONY: test slow lint types sync tables figures

test:  ## the fast tests, as README says
	pytest

slow:  ## the end-to-end runs: benchmarks, notebook, browser, launchers, faults
	pytest -m slow

lint:
	ruff check
	ruff format --check
	python benchmarks/render.py --check

types:
	mypy

sync:  ## write the pipeline's one file, and copy the two files that travel to the Hub beside the shipped models
	python benchmarks/single_file.py
	for model in hub_model hub_model/four_steps hub_model/labelled hub_model/upscaler; do \
	  cp pipeline_anime_ddpm/pipeline_anime_ddpm.py $$model/; \
	  cp pipeline_anime_ddpm/schedulers/scheduling_anime_noise.py $$model/scheduler/; \
	done

tables:  ## write the measured tables into the pages
	python benchmarks/render.py

figures:  ## draw the figures of the pages from the measured numbers
	python benchmarks/figures.py
