"""Who may import whom, read from the source; and what serving must not load."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PURE = ("text", "spans", "exits", "models", "promise")
BY_HAND = ("api", "commands", "__main__", "errors")  # they put everything together, or are known to everybody
COMPILERS = ("numba", "llvmlite")
ONLINE, OFFLINE = ("engine", "policy", "autopilot", "api"), ("training", "distillation", "evaluation", "data")
NOT_IN_PURE = (
    *("service.settings", "service.metrics", "service.api", "service.engine", "service.training"),
    *("service.evaluation", "service.data", "service.logs", "logging", "fastapi", "prometheus_client", "threading"),
    *("service.executors", "service.kernels", *COMPILERS),
)
NOT_WHILE_SERVING = (
    *("transformers", "matplotlib", "tqdm", "httpx2", "ner_client", "redis"),
    *("service.training", "service.distillation", "service.evaluation", "service.data", "service.client"),
)


@cache
def imports() -> dict[str, frozenset[str]]:
    """Module -> every module it imports anywhere, inside functions too. `from a import b` counts as a and a.b."""
    found = {}
    for path in sorted((ROOT / "service").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = frozenset(imported(ast.parse(path.read_text(encoding="utf-8")), path))
    return found


def imported(tree: ast.Module, path: Path) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{path}:{node.lineno} imports relatively; this test cannot follow"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_in(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def of(package: str) -> list[str]:
    """The modules of a package, or the module itself."""
    found = [module for module in imports() if is_in(module, package)]
    assert found, f"{package} has no modules"
    return found


def arrows(package: str, *forbidden: str) -> list[str]:
    """Every import from a module of `package` into one of `forbidden`."""
    return [
        f"{module} -> {target}"
        for module in of(package)
        for target in sorted(imports()[module])
        if any(is_in(target, name) for name in forbidden)
    ]


def reach(package: str) -> set[str]:
    """Everything that importing `package` may load, through modules of ours."""
    reached, todo = set[str](), of(package)
    while todo:
        module = todo.pop()
        new = imports().get(module, frozenset()) - reached
        reached |= new
        todo += new
    return reached


def importers(*targets: str) -> set[str]:
    """The modules outside of `targets` that import one of them."""
    found = {
        module for module, names in imports().items() if any(is_in(n, target) for n in names for target in targets)
    }
    return {module for module in found if not any(is_in(module, target) for target in targets)}


def loaded_by(code: str) -> list[str]:
    """The modules that a process of its own has loaded after `code`, but for what torch itself loads."""
    code = (
        f"import json, sys, torch; before = set(sys.modules); {code}; print(json.dumps([*{{*sys.modules}} - before]))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
    )
    return sorted(json.loads(run.stdout))


def written_arrows() -> dict[str, set[str]]:
    """Package or module -> what docs/architecture.md says that it imports."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    _, table = page.split("| of `service/` | imports |\n|---|---|\n")
    rows = [re.fullmatch(r"\| (.+) \| (.+) \|", line) for line in table.split("\n\n")[0].splitlines()]
    named = [(re.findall(r"`(\w+)`", row[1]), re.findall(r"`(\w+)`", row[2])) for row in rows if row]
    return {importer: set(imported) for importers, imported in named for importer in importers}


def test_every_package_imports_what_the_architecture_says_and_nothing_else() -> None:
    written = written_arrows()
    found: dict[str, set[str]] = {}
    for module, targets in imports().items():
        if is_in(module, "service") and module != "service":
            own = module.split(".")[1]
            others = {target.split(".")[1] for target in targets if target.startswith("service.")}
            found.setdefault(own, set()).update(others - {own, "errors", "__version__"})
    assert written == {own: targets for own, targets in found.items() if own not in BY_HAND}


@pytest.mark.parametrize("package", PURE)
def test_pure_packages_know_nothing_of_settings_logs_metrics_http_or_threads(package: str) -> None:
    assert arrows(f"service.{package}", *NOT_IN_PURE) == []
    assert not [name for name in reach(f"service.{package}") if any(is_in(name, other) for other in NOT_IN_PURE)]


def test_exits_know_of_texts_what_a_sequence_is_and_no_more() -> None:
    targets = {target for module in of("service.exits") for target in imports()[module]}
    known = {target for target in targets if is_in(target, "service.text") or is_in(target, "service.models")}
    assert known == {"service.text.types", "service.text.types.SequenceInput"}


def test_models_do_not_decide_when_to_leave() -> None:
    assert arrows("service.models", "service.exits") == []


@pytest.mark.parametrize("package", ["service.text", "service.spans"])
def test_text_and_spans_do_without_torch(package: str) -> None:
    assert not [name for name in reach(package) if is_in(name, "torch")]


def test_kernels_know_nothing_of_ours_but_the_layout_of_a_table() -> None:
    known = ("service.kernels", "service.spans.table", "service.errors")
    targets = {target for module in of("service.kernels") for target in imports()[module] if is_in(target, "service")}
    assert [target for target in targets if not any(is_in(target, name) for name in known)] == []


def test_executors_know_models_kernels_and_what_is_pure_and_no_more() -> None:
    targets = {target for module in of("service.executors") for target in imports()[module] if is_in(target, "service")}
    assert {target.split(".")[1] for target in targets} <= {*PURE, "kernels", "executors", "errors"}


def test_whoever_runs_layers_goes_through_an_executor() -> None:
    assert {module.split(".")[1] for module in importers("service.kernels")} == {"executors"}


def test_only_kernels_are_compiled() -> None:
    assert {module.split(".")[1] for module in importers(*COMPILERS)} == {"kernels"}


def test_the_engine_leaves_the_model_and_its_device_to_the_executor() -> None:
    assert arrows("service.engine", "service.models", "service.kernels", "torch") == []


@pytest.mark.parametrize("package", ONLINE)
def test_what_is_online_never_imports_what_is_offline(package: str) -> None:
    assert arrows(f"service.{package}", *(f"service.{name}" for name in OFFLINE)) == []


@pytest.mark.parametrize("package", OFFLINE)
def test_what_is_offline_never_imports_what_is_online(package: str) -> None:
    assert arrows(f"service.{package}", *(f"service.{name}" for name in ONLINE)) == []


def test_training_looks_at_evaluation_only_where_it_judges_a_model_and_writes_its_figures() -> None:
    lookers = {name for name in importers("service.evaluation") if is_in(name, "service.training")}
    assert lookers == {"service.training.judge", "service.training.card"}


@pytest.mark.parametrize("package", ["service.engine", "service.policy", "service.autopilot", "service.stepping"])
def test_engine_policy_autopilot_and_stepping_know_no_http_and_no_metrics(package: str) -> None:
    assert arrows(package, "service.api", "service.metrics", "fastapi", "starlette", "uvicorn", "pydantic") == []


def test_the_live_policy_knows_exits_promises_and_files_and_no_more() -> None:
    targets = {target for module in of("service.policy") for target in imports()[module] if is_in(target, "service")}
    assert {target.split(".")[1] for target in targets} <= {"policy", "exits", "promise", "errors", "files"}


def test_the_engine_knows_of_the_live_policy_only_what_a_request_captures() -> None:
    targets = {target for module in of("service.engine") for target in imports()[module]}
    known = {target for target in targets if is_in(target, "service.policy")}
    assert known == {"service.policy.captured", "service.policy.captured.CapturedPolicy"}


def test_the_autopilot_flies_through_the_live_policy_and_nobody_below_the_api_knows_of_it() -> None:
    targets = {target for module in of("service.autopilot") for target in imports()[module] if is_in(target, "service")}
    assert {target.split(".")[1] for target in targets} <= {"autopilot", "engine", "policy", "errors"}
    assert {module.split(".")[1] for module in importers("service.autopilot")} == {"api"}


def test_the_control_law_is_pure() -> None:
    assert imports()["service.autopilot.law"] <= {
        *("__future__", "__future__.annotations", "math"),
        *("dataclasses", "dataclasses.dataclass", "dataclasses.replace"),
    }


def test_only_the_command_line_and_what_starts_the_api_read_settings() -> None:
    readers = {module for module, targets in imports().items() if any(is_in(t, "service.settings") for t in targets)}
    starts = ("service.__main__", "service.commands.models", "service.api", "service.processes", "service.fleet")
    assert {name for name in readers if not any(is_in(name, start) for start in starts)} == set()


def test_the_command_that_asks_knows_the_server_by_its_client_alone() -> None:
    known = ("service.client", "service.errors")
    targets = {target for module in of("service.client") for target in imports()[module] if is_in(target, "service")}
    assert [target for target in targets if not any(is_in(target, name) for name in known)] == []
    assert importers("service.client") == {"service.commands.ask", "service.commands.distil"}
    assert not [name for name in reach("service.client") if is_in(name, "torch") or is_in(name, "httpx2")]


@pytest.mark.parametrize(
    ("package", "libraries"), [("ner_client", {"httpx2"}), ("clients/spacy/ner_spacy", {"ner_client", "spacy"})]
)
def test_what_others_install_needs_its_own_libraries_and_nothing_of_the_service(
    package: str, libraries: set[str]
) -> None:
    paths = list((ROOT / package).glob("*.py"))
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in paths]
    roots = {name.split(".")[0] for path, tree in zip(paths, trees, strict=True) for name in imported(tree, path)}
    assert roots - sys.stdlib_module_names - {Path(package).name} == libraries


def test_one_file_knows_ray_and_nobody_knows_the_fleet() -> None:
    assert importers("ray") == {"service.fleet.application"}
    assert importers("service.fleet") == set()


def test_errors_import_nothing_of_ours() -> None:
    assert arrows("service.errors", "service") == []


def test_serving_loads_nothing_that_only_training_needs_and_no_compiler_before_it_is_wanted() -> None:
    loaded = loaded_by("import service.__main__, service.api.server")
    assert {"service.commands.serve", "service.api.server"} <= set(loaded)
    unwanted = (*NOT_WHILE_SERVING, *COMPILERS, "service.kernels")
    assert [name for name in loaded if any(is_in(name, other) for other in unwanted)] == []


def test_the_eager_executor_runs_without_a_compiler() -> None:
    loaded = loaded_by(
        "from service.executors.choose import make_executor; from tests.models_ import random_sequences, tiny_model; "
        "make_executor('eager', tiny_model()).run_layer(1, random_sequences([3]), [None])"
    )
    assert "service.executors.eager" in loaded
    assert [name for name in loaded if any(is_in(name, other) for other in (*COMPILERS, "service.kernels"))] == []


def test_the_compiler_is_loaded_where_the_fused_executor_is() -> None:
    assert {*COMPILERS, "service.kernels"} <= set(loaded_by("import service.executors.fused"))


@pytest.mark.parametrize("module", ["service.executors.choose", "service.exits.catalog", "benchmarks.gpu"])
def test_executors_models_and_exits_load_without_what_only_texts_and_one_measure_need(module: str) -> None:
    blocked = ("sentencex", "rapidfuzz", "numba")
    loaded = loaded_by(f"sys.modules.update(dict.fromkeys({blocked})); import {module}")  # None: importing it fails
    assert module in loaded
