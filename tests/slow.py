"""What `pytest` leaves out by default, and `pytest -m ""` runs: the tests that were measured to be slow.

Of a table some rows stay, so that every rule, every call and every public function is tested by
default. The rows of rules are not listed here: all but the first of an op are slow
(``tests/rules/test_rows.py``).
"""

from __future__ import annotations

from collections.abc import Mapping

SLOW: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "_jax/test_debugging.py": {
        "test_a_nan_is_found_at_the_users_line": ("sum_of_root", "in_scan-eager", "in_scan-jit"),
        "test_tracebacks_show_the_users_frames_alone": ("grad", "vjp-eager"),
    },
    "benchmarks/test_run.py": {
        "test_gradient_equals_jax_grad": ("mlp",),
        "test_gradient_of_a_while_loop_equals_that_of_a_python_loop": ("newton",),
        "test_temporary_memory_is_never_above_jax_grads_by_more_than_5_percent": ("mlp",),
        "test_quick_run_of_a_while_loop_is_compared_with_equinox": (),
        "test_quick_run_of_a_loop_prints_its_ratios_and_writes_nothing": (),
        "test_the_budget_curve_has_a_table_and_a_picture": (),
    },
    "benchmarks/test_soak.py": {
        "test_steps_outside_jit_leave_nothing_behind": (),
        "test_functions_that_are_gone_leave_nothing_behind": (),
        "test_threads_do_not_disturb_each_other": (),
    },
    "calls/test_checkpoint.py": {"test_gradient": ("none", "dots")},
    "calls/test_custom.py": {
        "test_equals_jax": ("jit(grad)", "jit(second order)"),
        "test_override": ("jit(grad)", "in jit in vmap"),
    },
    "calls/test_custom_options.py": {
        "test_equals_jax": ("jit", "vmap"),
        "test_what_a_backward_function_may_return": ("Python numbers-False",),
    },
    "calls/test_examples.py": {
        "test_vmap_of_vmap": (),
        "test_constants_of_the_loop": (),
        "test_constants_of_either_vmap_alone_take_no_rows_that_no_example_has": (),
        "test_several_carries_in_a_scan": (),
        "test_a_loop_in_a_loop": (),
        "test_a_solve_in_the_body": (),
        "test_second_order": (),
        "test_random_keys_in_the_carry": (),
    },
    "calls/test_expanded.py": {
        "test_householder_product": ("(4, 1)",),
        "test_ormqr": ("True-False",),
        "test_windows_that_jax_differentiates_forward_only": ("dilated",),
    },
    "calls/test_late_sums.py": {"test_gradient": ("rows", "bias", "embedding")},
    "calls/test_linear_solve.py": {"test_gradient": ("solve", "right-hand side only")},
    "calls/test_hijax.py": {
        "test_gradient_is_by_the_primitives_rule": ("plain", "jit", "scan", "remat"),
        "test_second_derivative": ("plain",),
        "test_custom_vjp": ("plain", "scan"),
        "test_remat": ("scan",),
        "test_custom_root": ("plain",),
    },
    "calls/test_policies.py": {"test_prints_run_as_often_as_in_jax": ("scan", "alone")},
    "calls/test_references.py": {
        "test_straight_program": ("accumulated", "by dynamic index", "read before and after"),
        "test_call": ("jit", "vmap", "read in scan"),
        "test_while_loop": (),
    },
    "calls/test_scan.py": {
        "test_gradient": ("rnn", "fori_loop", "map", "integer ys"),
        "test_a_carry_that_is_a_ys_of_a_step_near": ("False-True-1",),
    },
    "calls/test_shard_map.py": {
        "test_data_parallel": ("checked",),
        "test_tensor_parallel": ("checked",),
        "test_ring": ("checked",),
        "test_fully_sharded_parameters": ("checked",),
        "test_mixture_of_experts": (),
        "test_body": ("checked",),
        "test_transforms": ("checked",),
        "test_eager_body_may_look_at_values_that_all_devices_have": (),
    },
    "calls/test_sharding.py": {"test_gradient": ("jit",)},
    "calls/test_while_loop.py": {
        "test_equals_a_bounded_scan_for_any_number_of_trips": ("3",),
        "test_under_vmap_each_example_has_its_own_trips": (),
        "test_second_order": (),
        "test_nested_in_everything": (),
        "test_repeats_stay_within_the_binomial_bound": ("4",),
    },
    "calls/test_wrapped.py": {"test_what_jax_grad_refuses": ("alone", "scan")},
    "examples/test_methods.py": {
        "test_guided_backpropagation_is_on_the_ink": (),
        "test_relevances_sum_to_about_the_logit": (),
        "test_one_head_carries_the_answer": (),
    },
    "partition/test_budget.py": {"test_gradient": ()},
    "rules/test_rows.py": {"test_values_that_are_not_finite": ()},
    "rules/test_sparse.py": {
        "test_products_of_the_older_formats": ("coo-vector-plain", "csr-matrix-transposed"),
        "test_extract_takes_a_repeated_index_once": (),
        "test_jacobians_of_dense_arrays_are_batched_along_any_axis": (),
        "test_indices_shared_by_a_batch": (),
        "test_block_axes": (),
        "test_product_of_two_sparse_arrays": (),
        "test_todense": ("BCOO",),
    },
    "test_composition.py": {
        "test_equals_jax": ("grad", "jit(grad)", "grad(vmap(jit))", "make_jaxpr"),
        "test_gradient_of_gradient": ("inner",),
    },
    "test_drop_in.py": {
        "test_names_that_were_imported_before_are_ours_too": (),
        "test_jax_s_own_modules_ask_us": (),
    },
    "test_dtypes.py": {"test_reductions_and_normalisations": ("bfloat16",)},
    "test_jacobians.py": {"test_jacobians": ("matrix-jacrev", "trees-jacrev")},
    "test_overrides.py": {
        "test_override_applies": ("plainly", "softmax", "a plain def"),
        "test_a_rule_is_given_static_arguments_by_name": ("plainly",),
    },
    "test_nesting.py": {"test_nestings": ("0",)},
    "test_pytest_swap.py": {
        "test_every_gradient_is_ours": ("0",),
        "test_strict_refuses_what_only_jax_knows": (),
        "test_a_variable_that_jax_missed_is_named": (),
        "test_without_the_plugin_they_are_jax_s": (),
    },
    "test_slow.py": {"test_the_table_of_slow_tests_is_right": ()},
    "test_state.py": {
        "test_chain_of_100000_operations": (),
        "test_a_cached_custom_jvp_rule_keeps_no_recorded_value": ("scan",),
    },
    "test_symbolic.py": {
        "test_exported_gradient": (
            "sort",
            "scan",
            "cond",
            "map",
            "scatter-add",
            "softmax",
            "pooling",
        ),
    },
    "test_transforms.py": {
        "test_gradient_of_scalar": ("x32",),
        "test_gradient_of_scalar_under_jit": ("x64",),
    },
    "testing/fuzz/test_many.py": {
        "test_failures_are_runnable_files": (),
        "test_a_failure_is_confirmed_in_a_process_of_its_own": (),
        "test_command_line": (),
    },
    "testing/fuzz/test_one.py": {"test_random_programs": ("5",)},
    "testing/test_check_grads.py": {
        "test_every_check_runs_in_every_dtype": ("float32", "float64"),
        "test_right_gradients_pass": ("matrix", "pytrees", "complex", "scalar"),
        "test_what_did_not_run_says_why": (),
    },
    "testing/test_mutations.py": {"test_corrupted_rules_are_caught": ("sin", "dot_general")},
}
"""Files below tests, their slow tests, and of these the rows that stay: those whose id is one of the
names, or has one of them in it."""


def is_slow(file: str, test: str, row: str) -> bool:
    """Whether a test is slow; `row` is the id of its parameters, empty where there are none."""
    kept = SLOW.get(file, {}).get(test)
    return kept is not None and not any(f"-{name}-" in f"-{row}-" for name in kept)
