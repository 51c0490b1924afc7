.DEFAULT_GOAL := help
.PHONY: help setup demo test checks doctor clean

help: ## this list
	@grep -hE '^[a-z]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | expand -t 10

setup: ## the environment .venv (again only when pyproject.toml or constraints.txt changed)
	@tools/setup

demo: setup ## simulate, shard, pre-train, fine-tune in minutes; DATA=real: the same on real data
	@tools/demo $(DATA)

# Three processes: one of them mostly waits for Slurm.
test: ## the whole test suite
	@tools/setup --dev
	@.venv/bin/pytest -q -n 3 $(ARGS)

checks: ## ruff, pyright, import-linter
	@tools/setup --dev
	@tools/check

doctor: setup ## what this machine can do, and what to mend
	@.venv/bin/python tools/doctor

clean: ## remove what the demo made; the environment stays
	rm -rf demo
