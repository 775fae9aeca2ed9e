"""Each module has its tests where its path says, or the list below says which tests cover it; and each test is for a
module, in that list, or of a suite.

What a path says: the tests of `jobrunner/protocol/wire/codec.py` are in a file `test_codec.py`, or with the name of its
package `test_wire_codec.py`, in the folder of its package in `tests/` or in a folder around that.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from support import TESTS

PACKAGE = TESTS.parent / "jobrunner"

CONTRACT = "contract"
SIMULATION = "simulation"

COVERED_BY: dict[str, tuple[str, ...]] = {
    "__init__": ("test_package.py",),
    "__main__": ("cli/test_cluster_commands.py",),
    "admin": ("cluster/test_detached.py", "cluster/test_security.py", "cli/test_cluster_commands.py"),
    "context": ("contract/test_context.py",),
    "errors": ("contract/test_faults.py", "contract/test_errors_of_pickling.py"),
    "options": ("test_executor.py", "contract/test_retries.py"),
    "version": ("test_package.py",),
    # backends
    "backends.__init__": ("testing/test_backend_contract.py", "test_examples.py"),
    "backends.base": (CONTRACT, "testing/test_backend_contract.py"),
    "backends.borrowed": ("contract/test_context.py", "contract/test_future_ids.py"),
    "backends.bundle_builder": ("contract/test_short_calls.py", "protocol/test_bundle_tracker.py"),
    "backends.cancelling": (
        "contract/test_faults.py",
        "contract/test_standard_futures.py",
        "backends/test_lost_threads.py",
    ),
    "backends.client_thread": (
        "backends/test_lost_threads.py",
        "contract/test_ending.py",
        "test_interrupts.py",
    ),
    "backends.cluster": (CONTRACT, "cluster/test_daemons.py", "cluster/test_faults.py"),
    "backends.connection": (CONTRACT, "cluster/test_daemons.py"),
    "backends.connections": ("contract/test_context.py", "cluster/test_forks.py"),
    "backends.core_backend": (CONTRACT, "backends/test_lost_threads.py", "test_interrupts.py"),
    "backends.dependency_results": ("contract/test_dependencies.py",),
    "backends.engine.attempts": ("backends/test_engine_backend.py", "backends/test_lost_threads.py"),
    "backends.engine.dask": ("engines/test_dask.py",),
    "backends.engine.entry": ("backends/test_engine_backend.py",),
    "backends.engine.events": ("backends/test_engine_backend.py",),
    "backends.engine.mpi": ("engines/test_mpi.py",),
    "backends.engine.new_calls": ("backends/test_engine_backend.py", "backends/test_lost_threads.py"),
    "backends.engine.parts": ("backends/test_engine_backend.py",),
    "backends.engine.printed": ("backends/test_engine_in_worker.py",),
    "backends.engine.ray": ("engines/test_ray.py",),
    "backends.engine.stops": ("backends/test_engine_in_worker.py",),
    "backends.engine.unfinished_calls": ("backends/test_engine_backend.py", "backends/test_lost_threads.py"),
    "backends.failures": ("contract/test_faults.py", "contract/test_errors_of_pickling.py"),
    "backends.futures_in_arguments": ("contract/test_dependencies.py",),
    "backends.home": ("contract/test_future_ids.py", "contract/test_dependencies.py"),
    "backends.lifetime": ("contract/test_ending.py", "test_interrupts.py"),
    "backends.local_wire": (CONTRACT, "backends/test_lost_threads.py"),
    "backends.outgoing_calls": (
        "contract/test_short_calls.py",
        "cluster/test_bundles.py",
        "test_interrupts.py",
    ),
    "backends.prepared": ("contract/test_calls.py", "workers/test_shared_functions.py"),
    "backends.processes": (CONTRACT, "edge/test_edge.py"),
    "backends.registry": ("test_executor.py", "testing/test_backend_contract.py"),
    "backends.served": ("contract/test_future_ids.py",),
    "backends.shared_store": ("contract/test_large_values.py",),
    "backends.slot_initializers": ("contract/test_initializers.py",),
    "backends.standard_pools": ("contract/test_constructor.py", "cpython/test_interpreters_own.py"),
    "backends.thread_context": ("contract/test_context.py", "backends/test_thread_nests.py"),
    "backends.thread_initializer": ("contract/test_initializers.py",),
    "backends.thread_runners": (CONTRACT, "backends/test_lost_threads.py", "test_interrupts.py"),
    "backends.threads": (CONTRACT, "backends/test_lost_threads.py", "test_interrupts.py"),
    # what travels
    "calls.initializers": ("test_slot_setup.py", "contract/test_initializers.py"),
    "fixed.__init__": ("fixed/test_taking.py", "fixed/test_fixed_results.py"),
    "fixed.arguments": ("contract/test_map_values.py", "fixed/test_held.py"),
    "pickling.loading": ("contract/test_references.py", "test_serialization.py"),
    "script.calls": ("contract/test_script.py", "contract/test_shared_globals.py"),
    "script.catalogue": ("contract/test_script.py", "contract/test_shared_globals.py"),
    "script.classes": ("contract/test_script.py",),
    "script.ctypes_classes": ("contract/test_script.py",),
    "script.current": ("contract/test_script.py", "test_per_thread.py"),
    "script.definition": ("contract/test_script.py",),
    "script.digests": ("contract/test_script.py",),
    "script.function_parts": ("contract/test_script.py",),
    "script.images": ("contract/test_script.py",),
    "script.imported": ("contract/test_script.py",),
    "script.looks": ("contract/test_script.py",),
    "script.makers": ("contract/test_script.py",),
    "script.modes": ("contract/test_script.py",),
    "script.origin": ("contract/test_script.py",),
    "script.pickler": ("contract/test_script.py", "test_function_fingerprint.py"),
    "script.standin": ("contract/test_script.py", "test_per_thread.py"),
    "script.unchanged": ("contract/test_script.py", "test_function_fingerprint.py"),
    "shipping.archive": ("test_shipping.py", "cluster/test_shipping.py"),
    "shipping.collect": ("test_shipping.py", "cluster/test_shipping.py"),
    # map
    "mapping.chunk_runner": ("test_mapping.py", "contract/test_map.py", "contract/test_map_division.py"),
    "mapping.packing": ("test_mapping.py", "contract/test_map.py"),
    "mapping.progress": ("test_mapping.py", "test_interrupts.py"),
    "mapping.progress_bar": ("test_mapping.py", "integrations/test_progress.py"),
    "mapping.run": ("test_mapping.py", "contract/test_map.py", "contract/test_map_division.py"),
    "mapping.spans": ("test_chunk_queue.py", "test_repeating.py"),
    # the program, and calls inside of calls
    "display.notebooks": ("test_representation.py", "integrations/test_notebook.py"),
    "nested.task_context": ("contract/test_context.py",),
    "nested.wait_hooks": (
        "workers/test_standstill.py",
        "workers/test_waits.py",
        "backends/test_thread_nests.py",
    ),
    "program.flags": ("test_program.py", "contract/test_process.py"),
    "program.inheritance": ("contract/test_process.py", "test_half_imported.py"),
    "program.logging_setup": ("contract/test_process.py",),
    "program.takeover": ("test_program.py", "contract/test_process.py"),
    # the cores, and messages
    "protocol.chunks": ("protocol/test_division.py", "protocol/test_client_chunks.py"),
    "protocol.client.bundle_index": ("protocol/test_bundle_tracker.py",),
    "protocol.client.cancel_requests": ("protocol/test_cancelling.py", "protocol/test_bundle_tracker.py"),
    "protocol.client.endings": ("protocol/test_client_core.py", "protocol/test_client_chunks.py"),
    "protocol.client.pending_tasks": ("protocol/test_client_core.py", "protocol/test_bundle_tracker.py"),
    "protocol.coordinator.admission": ("protocol/test_accounts.py", "protocol/test_coordinator_core.py"),
    "protocol.coordinator.attempts": ("protocol/test_scheduler.py", "protocol/test_scheduler_bundles.py"),
    "protocol.coordinator.cancellation": ("protocol/test_scheduler.py", "protocol/test_coordinator_core.py"),
    "protocol.coordinator.client_tasks": (
        "protocol/test_scheduler_bundles.py",
        "protocol/test_coordinator_core.py",
    ),
    "protocol.coordinator.ownership": (
        "protocol/test_scheduler_bundles.py",
        "protocol/test_worker_owners.py",
    ),
    "protocol.coordinator.stuck_workers": ("protocol/test_coordinator_core.py",),
    "protocol.coordinator.dependencies": ("protocol/test_scheduler.py", "protocol/test_coordinator_core.py"),
    "protocol.coordinator.dispatcher": ("protocol/test_scheduler.py", "protocol/test_placement.py"),
    "protocol.coordinator.endings": ("protocol/test_scheduler.py", "protocol/test_coordinator_core.py"),
    "protocol.coordinator.finished_tasks": ("protocol/test_coordinator_core.py", "protocol/test_abuse.py"),
    "protocol.coordinator.journal_gate": ("protocol/test_journal.py", "protocol/test_coordinator_core.py"),
    "protocol.coordinator.offences": ("protocol/test_rejections.py", "protocol/test_illegal_messages.py"),
    "protocol.coordinator.orphans": ("protocol/test_scheduler.py", "protocol/test_coordinator_core.py"),
    "protocol.coordinator.outboxes": ("protocol/test_coordinator_core.py",),
    "protocol.coordinator.outgoing": ("protocol/test_coordinator_core.py",),
    "protocol.coordinator.piece_index": ("protocol/test_abuse.py",),
    "protocol.coordinator.questions": ("protocol/test_reports.py",),
    "protocol.coordinator.python_versions": ("protocol/test_missing_modules.py",),
    "protocol.coordinator.roster": ("protocol/test_peers.py", "protocol/test_scheduler.py"),
    "protocol.coordinator.sessions": ("protocol/test_coordinator_core.py", "simulation/test_scenarios.py"),
    "protocol.coordinator.settings": ("protocol/test_coordinator_core.py",),
    "protocol.coordinator.submission": ("protocol/test_scheduler.py", "protocol/test_coordinator_core.py"),
    "protocol.coordinator.task_table": ("protocol/test_scheduler.py", "protocol/test_abuse.py"),
    "protocol.deadlines": ("protocol/test_coordinator_core.py", "protocol/test_worker_core.py"),
    "protocol.effects": ("protocol/test_worker_core.py", "transport/test_driver.py"),
    "protocol.estimates": ("protocol/test_function_table.py",),
    "protocol.journal_records": ("protocol/test_journal.py", "coordinator/journal/test_store.py"),
    "protocol.known_functions": ("protocol/test_function_table.py", "protocol/test_parts.py"),
    "protocol.wire.payloads": ("protocol/test_codec.py", "test_serialization.py"),
    "protocol.worker.announced_capacity": ("protocol/test_worker_core.py",),
    "protocol.worker.function_store": ("protocol/test_worker_core.py", "protocol/test_parts.py"),
    "protocol.worker.local_tasks": ("protocol/test_worker_core.py",),
    "protocol.worker.recalling": ("protocol/test_worker_retraction.py", "protocol/test_worker_core.py"),
    "protocol.worker.replacing": ("protocol/test_worker_core.py", "protocol/test_worker_owners.py"),
    "protocol.worker.settings": ("protocol/test_worker_core.py",),
    "protocol.worker.slot_events": ("protocol/test_worker_core.py",),
    "protocol.worker.splitting": ("protocol/test_worker_bundles.py", "protocol/test_worker_chunks.py"),
    # daemons, journal and keys
    "coordinator.daemon": ("cluster/test_daemons.py", "protocol/test_reports.py"),
    "coordinator.embedded": ("cluster/test_daemons.py", "contract/test_ending.py"),
    "coordinator.journal.recovery": (
        "coordinator/journal/test_damage.py",
        "coordinator/journal/test_store.py",
    ),
    "coordinator.journal.rows": ("coordinator/journal/test_store.py", "coordinator/journal/test_damage.py"),
    "coordinator.journal.write_ahead_log": ("coordinator/journal/test_store.py",),
    "coordinator.local_cluster": ("cluster/test_daemons.py", "faults/test_shortage.py"),
    "keys.credentials": ("test_keyring.py", "cluster/test_security.py"),
    "keys.identity": ("test_keyring.py", "cluster/test_security.py"),
    "keys.joining": ("test_invitation.py", "cluster/test_security.py"),
    "keys.private_files": ("test_keyring.py",),
    "keys.process_list": ("cluster/test_security.py",),
    "transport.curve": ("test_keyring.py", "cluster/test_security.py"),
    # workers and slots
    "workers.control_thread": ("workers/test_child.py", "workers/test_slot_pool.py"),
    "workers.crash_board": ("workers/test_gate.py", "workers/test_outbox.py", "workers/test_chunk.py"),
    "workers.daemon": ("cluster/test_daemons.py", "cli/test_cluster_commands.py"),
    "workers.framing": ("workers/test_channel.py", "workers/test_child.py"),
    "workers.in_process_worker": (CONTRACT, "cluster/test_daemons.py"),
    "workers.lifetime_ties": ("workers/test_slot_pool.py", "contract/test_ending.py"),
    "workers.memory_limit": ("cluster/test_memory.py", "workers/test_slot_pool.py"),
    "workers.slot_effects": (CONTRACT, "cluster/test_daemons.py"),
    "workers.slot_functions": ("workers/test_child.py", "contract/test_initializers.py"),
    "workers.slot_process": ("workers/test_slot_pool.py",),
    "workers.streams": ("cluster/test_streams.py", "workers/test_child.py"),
    # what the system is asked for
    "shared_memory.limits": ("shared_memory/test_segment_pool.py", "shared_memory/test_attachments.py"),
    "shared_memory.memory_files": (
        "shared_memory/test_segment_pool.py",
        "shared_memory/test_shared_payload.py",
    ),
    "system.descriptors": ("test_program.py", "workers/test_child.py"),
    "system.processor_time": ("workers/test_standstill.py",),
    # other libraries
    "integrations.files": ("integrations/test_joblib.py",),
    "integrations.thread_limits": ("integrations/test_joblib.py",),
    # the command line
    "cli.cancelling": ("cluster/test_bundles.py", "cli/test_cluster_commands.py"),
    "cli.coordinator": ("cli/test_cluster_commands.py",),
    "cli.demo_runs": ("cli/test_demo.py",),
    "cli.demo_view": ("cli/test_demo.py",),
    "cli.detached": ("cluster/test_detached.py",),
    "cli.join": ("cli/test_keys.py", "cluster/test_security.py"),
    "cli.journal": ("cli/test_app.py", "coordinator/journal/test_damage.py"),
    "cli.output": ("cli/test_views.py", "cli/test_demo.py"),
    "cli.sim": ("cli/test_app.py",),
    "cli.status": ("cli/test_cluster_commands.py",),
    "cli.tasks": ("cli/test_views.py", "cli/test_cluster_commands.py"),
    "cli.version": ("cli/test_app.py",),
    "cli.worker": ("cli/test_cluster_commands.py",),
    # what tests use
    "testing.__init__": ("testing/test_cluster.py",),
    "testing.contract_report": ("testing/test_backend_contract.py",),
    "testing.fixtures": ("testing/test_cluster.py",),
    "testing.promises": ("testing/test_backend_contract.py",),
    "testing.simulation.__init__": (SIMULATION,),
    "testing.simulation.announcements": (SIMULATION,),
    "testing.simulation.attacker": ("simulation/test_attackers.py",),
    "testing.simulation.bundled": ("simulation/test_bundle_seeds.py",),
    "testing.simulation.held_up": (SIMULATION,),
    "testing.simulation.idleness": ("simulation/test_chunk_seeds.py",),
    "testing.simulation.laws": (SIMULATION,),
    "testing.simulation.nested": (SIMULATION,),
    "testing.simulation.network": (SIMULATION,),
    "testing.simulation.nodes": (SIMULATION,),
    "testing.simulation.runner": ("simulation/test_seeds.py",),
    "testing.simulation.scenario": (SIMULATION,),
    "testing.simulation.simulated_calls": (SIMULATION,),
    "testing.simulation.simulated_program": (SIMULATION,),
    "testing.simulation.simulated_slots": (SIMULATION,),
    "testing.simulation.watch": (SIMULATION,),
    "testing.simulation.world": (SIMULATION,),
    "testing.stub_backend": ("test_mapping.py", "test_submitted.py"),
    "testing.waiting": ("test_pauses.py",),
}
"""Module -> the files, or the folder, whose tests notice a mistake in it, where no file has its name."""

SUITES: dict[str, str] = {
    "cluster": "real daemons: what only they show",
    CONTRACT: "what every backend promises",
    "cpython": "the interpreter's own tests",
    "edge": "threads, processes and signals, by seeds",
    "engines": "Dask, Ray and MPI",
    "faults": "what may go wrong, with real processes",
    "integrations": "other people's libraries",
    SIMULATION: "the cores under a virtual clock",
    "protocol/test_fuzz.py": "what no core may be harmed by",
    "protocol/test_illegal_messages.py": "what each core refuses",
    "protocol/test_initializers.py": "initializers in all three cores",
    "protocol/test_scheduler_bundles.py": "the scheduler, about bundles",
    "protocol/test_wire_bytes.py": "the bytes of one message of each type",
    "protocol/test_worker_bundles.py": "the worker's core, about bundles",
    "protocol/test_worker_chunks.py": "the worker's core, about chunks",
    "protocol/test_worker_owners.py": "the worker's core, about owners",
    "protocol/test_worker_retraction.py": "the worker's core, about what is taken back",
    "test_architecture.py": "who may import whom",
    "test_owned_fields.py": "which class writes which field",
    "test_coverage_map.py": "this file",
    "test_docs.py": "README and docs",
    "test_docs_inside.py": "the docs of the inside",
    "test_examples.py": "examples/",
    "test_prose.py": "the docstrings of public names",
    "test_setup_venv.py": "scripts/setup-venv",
    "test_states.py": "docs/states.md",
}
"""Files and folders of tests that are about more than one module, or about none."""


def modules() -> dict[str, Path]:
    """The modules that have more than a docstring."""
    found = {}
    for folder in (PACKAGE, PACKAGE / "workers", PACKAGE / "cli"):  # rglob does not follow the links
        for path in folder.rglob("*.py"):
            body = ast.parse(path.read_text()).body
            if any(not isinstance(node, ast.Expr) for node in body):
                found[path.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", ".")] = path
    return found


MODULES = modules()
FILES = {path.relative_to(TESTS).as_posix() for path in TESTS.rglob("test_*.py")}


def by_path(module: str) -> set[str]:
    """The files that have the tests of a module by what its path says."""
    parts = module.removesuffix(".__init__").split(".")
    possible = {
        "/".join([*parts[:depth], "test_" + "_".join(parts[first:]) + ".py"])
        for depth in range(len(parts))
        for first in range(depth, len(parts))
    }
    return possible & FILES


@pytest.mark.parametrize("module", MODULES)
def test_each_module_has_its_tests(module):
    if module in COVERED_BY:
        assert not by_path(module), "its tests are where its path says: it needs no row"
    else:
        assert by_path(module), f"it needs a file test_{module.rpartition('.')[2]}.py, or a row in COVERED_BY"


def test_each_row_is_about_a_module():
    assert not COVERED_BY.keys() - MODULES.keys()


@pytest.mark.parametrize("module", COVERED_BY)
def test_what_a_row_names_is_there(module):
    there = FILES | {path.name for path in TESTS.iterdir() if path.is_dir()}
    assert COVERED_BY[module]
    assert not {*COVERED_BY[module]} - there


def test_each_test_is_of_a_module_or_in_a_row_or_of_a_suite():
    own = {file for module in MODULES for file in by_path(module)}
    named = {file for row in COVERED_BY.values() for file in row}
    left = {file for file in FILES if file not in SUITES and file.partition("/")[0] not in SUITES}
    assert not left - own - named


def test_each_suite_is_there_and_is_of_no_module():
    own = {file for module in MODULES for file in by_path(module)}
    for name in SUITES:
        assert (TESTS / name).exists(), name
        assert name not in own, f"{name} is the test of a module"
