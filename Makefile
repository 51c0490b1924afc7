.DEFAULT_GOAL := help
.PHONY: help setup demo test checks bench docs doctor clean

help: ## show this list
	@grep -hE '^[a-z]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | expand -t 10

setup: ## make the environment .venv (made again only if pyproject.toml or constraints.txt changed)
	@tools/setup

demo: setup ## two simulated experiments, from scans to verdicts, in minutes; DATA=real: a real one
	@.venv/bin/python tools/demo $(DATA)

# Three processes: one of them mostly waits for Slurm.
test: ## run the whole test suite
	@tools/setup --dev
	@.venv/bin/pytest -q -n 3 $(ARGS)

checks: ## run ruff, pyright and import-linter
	@tools/setup --dev
	@tools/check

bench: setup ## measure speed and write docs/benchmarks.md; ONLY="NAME ...", ARGS, PAGE=only (no measuring), QUICK=1
	@.venv/bin/python benchmarks/run.py $(if $(ONLY),--only $(ONLY)) $(if $(ARGS),--args='$(ARGS)') \
	  $(if $(PAGE),--page) $(if $(QUICK),--quick)

docs: ## build the documentation in .site; SERVE=1: show it at http://127.0.0.1:8000 too
	@tools/setup --dev
	@.venv/bin/python tools/reference
ifdef SERVE
	@NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs serve -f .mkdocs.yml -a 127.0.0.1:8000
else
	@NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build -q -f .mkdocs.yml
	@echo "docs: open .site/index.html (the search works with SERVE=1)"
endif

doctor: setup ## show what this machine can do, and what to repair
	@.venv/bin/python tools/doctor

clean: ## remove the results of the simulated demo; keep the environment
	rm -rf demo
