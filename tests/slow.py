"""What `pytest` leaves out by default, and `pytest -m ""` runs: the tests that were measured to be slow.

Of a table some rows stay, so that every rule, every call and every public function is tested by
default. The rows of rules are not listed here: of an op the first is asked for its first derivative, and
all else is slow (``tests/rules/test_rows.py``).
"""

from __future__ import annotations

from collections.abc import Mapping

SLOW: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "_jax/test_debugging.py": {
        "test_a_nan_is_found_at_the_users_line": ("sum_of_root-jit", "sum_of_root-nested"),
        "test_tracebacks_show_the_users_frames_alone": ("grad", "vjp-eager"),
    },
    "benchmarks/test_fields.py": {
        "test_a_device_receives_no_more_than_by_jax_grad": ("lstm_64", "policy"),
        "test_gradients_are_equal": ("batch_norm", "policy"),
    },
    "benchmarks/test_run.py": {
        "test_gradient_equals_jax_grad": ("mlp",),
        "test_gradient_of_a_while_loop_equals_that_of_a_python_loop": (),
        "test_measures_everything_and_reports_it": (),
        "test_quick_run_of_a_loop_prints_its_ratios_and_writes_nothing": (),
        "test_quick_run_of_a_while_loop_is_compared_with_equinox": (),
        "test_temporary_memory_is_never_above_jax_grads_by_more_than_5_percent": ("mlp",),
        "test_the_budget_curve_has_a_table_and_a_picture": (),
    },
    "benchmarks/test_soak.py": {
        "test_functions_that_are_gone_leave_nothing_behind": (),
        "test_steps_outside_jit_leave_nothing_behind": (),
        "test_threads_do_not_disturb_each_other": (),
    },
    "calls/test_careful.py": {"test_gradient": ("scan-jit",)},
    "calls/test_checkpoint.py": {
        "test_gradient": (),
        "test_gradient_of_an_offloading_checkpoint": (),
        "test_in_scan": (),
    },
    "calls/test_cond.py": {"test_gradient": ("operands",)},
    "calls/test_constant_results.py": {
        "test_the_gradient_is_zero": (
            "-fori_loop",
            "-checkpoint within a budget",
            "jitted-scan with results",
            "jitted-checkpoint by policy",
        )
    },
    "calls/test_custom.py": {
        "test_a_custom_jvp_function_with_a_rule_under_checkify": ("of jit",),
        "test_a_least_squares_solve_of_tangents": (),
        "test_a_solve_of_tangents": ("cg of a function-jit",),
        "test_equals_jax": (
            "relu at the kink-jit(grad)",
            "symbolic zeros-jit(grad)",
            "nondiff custom_jvp-jit(second order)",
            "trees, None below-jit(grad)",
        ),
        "test_override": (
            "primitive-jit(grad)",
            "op-in jit in vmap",
            "jitted-jit(grad)",
            "custom_jvp-in jit in vmap",
        ),
        "test_what_a_rule_computes_from_tangents_and_does_not_use_is_no_error": (
            "where",
            "cond",
            "is finite",
        ),
    },
    "calls/test_custom_options.py": {
        "test_equals_jax": (
            "nondiff_argnums-jit",
            "None-jit",
            "custom_vjp in custom_vjp-jit",
            "symbolic zeros, unused-jit",
        ),
        "test_what_a_backward_function_may_return": (),
    },
    "calls/test_examples.py": {
        "test_a_collective_counts_examples_that_have_ended": (),
        "test_a_collective_that_nobody_reads_mixes_nothing": (),
        "test_a_constant_on_a_mesh_is_no_reason_to_touch_an_example_that_has_ended": ("P(None,)",),
        "test_a_loop_in_a_loop": (),
        "test_a_solve_in_the_body": (),
        "test_an_example_keeps_its_own_values_beside_constants_of_either_vmap_alone": (),
        "test_an_example_that_has_ended_is_not_touched": ("", "jit"),
        "test_body": (),
        "test_body_in": (),
        "test_constants_of_either_vmap_alone_take_no_rows_that_no_example_has": (),
        "test_constants_of_the_loop": (),
        "test_effects_are_of_the_examples_themselves": ("plain",),
        "test_effects_beside_constants_of_either_vmap_alone": (),
        "test_gradient_of_the_gradient_of_each": (),
        "test_integers_beside_random_keys_that_mix_the_examples": (),
        "test_numbers_of_steps": (),
        "test_primitive_of_another_package": ("with an implementation",),
        "test_random_keys_in_the_carry": (),
        "test_random_keys_on_a_mesh": (),
        "test_random_keys_that_mix_the_examples": (),
        "test_second_order": (),
        "test_several_carries_in_a_scan": (),
        "test_sharded_examples": ("spec2",),
        "test_sharded_vmap_of_vmap": (),
        "test_vmap_of_vmap": (),
    },
    "calls/test_expanded.py": {
        "test_a_reflector_that_is_the_identity": (),
        "test_an_integer_operand_where_jax_errs": (),
        "test_cholesky_update": (),
        "test_householder_product": (),
        "test_ormqr": (),
        "test_rule": (),
        "test_vmap": ("reduced0",),
        "test_windows_that_jax_differentiates_forward_only": (),
    },
    "calls/test_hijax.py": {
        "test_custom_root": ("plain",),
        "test_custom_vjp": ("plain", "scan"),
        "test_gradient_is_by_the_primitives_rule": ("plain", "jit", "scan", "remat"),
        "test_gradient_is_that_of_jax_grad": ("plain", "scan"),
        "test_remat": ("scan",),
        "test_second_derivative": ("plain",),
        "test_which_of_several_rules_is_used_in_a_checkpoint": (),
    },
    "calls/test_key_reuse.py": {
        "test_no_key_is_reused": ("jit-",),
        "test_the_numbers_are_the_same": ("scan", "jit"),
    },
    "calls/test_late_sums.py": {
        "test_effects_of_rules_stay_in_their_order": (),
        "test_gradient": (),
        "test_memory_stays_below_that_of_jax_grad": ("rows",),
    },
    "calls/test_linear_solve.py": {"test_gradient": ()},
    "calls/test_logs.py": {"test_logs_of_a_shard_map_are_stacked": ()},
    "calls/test_policies.py": {
        "test_no_more_is_computed_than_in_jax": ("alone",),
        "test_prints_run_as_often_as_in_jax": ("once-None-scan",),
    },
    "calls/test_references.py": {
        "test_a_gradient_of_a_gradient_keeps_the_derivatives_beside_a_reference": ("custom_vjp",),
        "test_call": (),
        "test_calls_that_store_keep_the_derivatives_of_what_they_call": (
            "ByVjp-checkpoint",
            "custom_jvp-jit",
        ),
        "test_cotangent_stored_by_a_custom_vjp": (
            "function-eager-",
            "function-jit-checks",
            "jit-jit-",
            "scan-jit-",
        ),
        "test_straight_program": ("accumulated",),
        "test_while_loop": (),
    },
    "calls/test_scan.py": {
        "test_a_carry_that_is_a_ys_of_a_step_near": ("False-True-1",),
        "test_gradient": (),
        "test_the_infinite_derivative_of_an_unused_output_does_no_harm": ("checkpoint",),
    },
    "calls/test_shard_map.py": {
        "test_body": (
            "jit-checked",
            "checkpoint-checked",
            "custom_vjp of what is whole-checked",
            "vmap-checked",
        ),
        "test_closed_over_values_are_differentiated": (),
        "test_data_parallel": (),
        "test_eager_body_may_look_at_values_that_all_devices_have": (),
        "test_fully_sharded_parameters": (),
        "test_gradient_inside": ("from outside-checked",),
        "test_gradients_keep_the_sharding_of_parameters": ("in jit",),
        "test_mixture_of_experts": (),
        "test_outputs_without_and_with_a_gradient": (),
        "test_partially_manual": ("unchecked",),
        "test_ring": ("checked",),
        "test_shardings_that_are_part_of_types": ("jit-convolution", "eager-convolution"),
        "test_tensor_parallel": (),
        "test_transforms": (),
        "test_under_vmap_scan_and_checkpoint": ("unchecked",),
    },
    "calls/test_sharding.py": {
        "test_gradient": (
            "used twice-rows-jit",
            "checkpoint-rows-jit",
            "cond of a constant-rows-jit",
            "shard_map-rows-jit",
        )
    },
    "calls/test_third_party.py": {"test_works_out_of_the_box": ("nonlinear", "integer output")},
    "calls/test_while_loop.py": {
        "test_equals_a_bounded_scan_for_any_number_of_trips": (),
        "test_jvp_over_the_gradient": (),
        "test_memory_grows_with_checkpoints_only": (),
        "test_nested_in_everything": (),
        "test_newton_to_a_tolerance": (),
        "test_outside_jit_and_with_jitted_function": (),
        "test_random_keys_in_the_carry": (),
        "test_repeats_stay_within_the_binomial_bound": (),
        "test_second_order": (),
        "test_the_setting_is_restored_and_not_mistaken_by_caches": (),
        "test_under_vmap_each_example_has_its_own_trips": (),
    },
    "calls/test_wrapped.py": {
        "test_batched_gradient": (),
        "test_batched_gradient_is_that_of_the_batching_rule": (),
        "test_equals_jax": ("named", "metadata"),
        "test_in_scan": ("closed call", "metadata"),
        "test_linear_call_by_what_it_is_not_linear_in": (),
        "test_what_jax_cannot_batch": (),
        "test_what_jax_grad_refuses": ("alone-custom_vmap",),
    },
    "docs/test_guides.py": {
        "test_a_page_prints_what_it_shows": ("start.md", "why.md", "guides/speed.md")
    },
    "docs/test_methods.py": {"test_the_snippets_run_from_top_to_bottom": ()},
    "ecosystem/test_cost.py": {"test_matrix_products_by_op_and_scope": ("linen",)},
    "ecosystem/test_flax.py": {
        "test_linen": (),
        "test_linen_training_step_with_batch_statistics": (),
        "test_nnx_call_that_mutates_inside_jit_inside_the_gradient": (),
        "test_nnx_jit_with_our_gradient_of_a_split_model": (),
        "test_nnx_optimizer": (),
        "test_nnx_state": (),
    },
    "ecosystem/test_flow.py": {
        "test_dead_units_of_linen": (),
        "test_layers_and_their_parameters": ("haiku",),
        "test_lines_of_nnx": (),
    },
    "ecosystem/test_graph_page.py": {"test_the_page_is_collapsed_by_scope": ()},
    "ecosystem/test_methods.py": {"test_method": ("attn_lrp-haiku-remat-jit",)},
    "ecosystem/test_optax.py": {
        "test_gradient_through_unrolled_optimisation": (),
        "test_line_search_with_our_value_and_gradient": (),
        "test_loss": ("huber_loss",),
        "test_training_steps": ("adamw with clipping",),
    },
    "ecosystem/test_places.py": {"test_tool": ("taps-haiku-scan-jit",)},
    "ecosystem/test_residuals.py": {
        "test_scopes_are_those_of_the_modules": ("haiku",),
        "test_total_and_suggestion": ("haiku",),
    },
    "examples/lecture/test_googlenet.py": {
        "test_its_gradient_is_that_of_jax": (),
        "test_the_network_returns_log_probabilities": (),
    },
    "examples/test_backward_methods.py": {
        "test_clip_anywhere": (),
        "test_feedback_alignment": (),
        "test_per_example_norms": (),
        "test_straight_through": (),
        "test_wrong_norms_stop_the_script": (),
    },
    "examples/test_check_gradients.py": {"test_each_is_found_by_the_check_that_sees_it": ()},
    "examples/test_draw_graph.py": {"test_the_transformer_is_drawn_by_its_layers": ()},
    "examples/test_gradient_flow.py": {"test_the_first_layers_vanish_until_they_are_repaired": ()},
    "examples/test_memory_ledger.py": {"test_the_suggestion_is_followed": ()},
    "examples/test_methods.py": {
        "test_guided_backpropagation_is_on_the_ink": (),
        "test_one_head_carries_the_answer": (),
        "test_relevances_sum_to_about_the_logit": (),
    },
    "examples/training/test_checkpoints.py": {
        "test_a_damaged_checkpoint_is_skipped_with_a_message": ("numbers-a flipped bit",),
        "test_a_half_removed_checkpoint_is_skipped_with_a_message": ("state",),
        "test_a_run_whose_last_save_failed_ends_with_an_error": (),
        "test_another_state_is_an_error_that_names_the_array": ("shape",),
        "test_old_checkpoints_are_removed_and_the_newest_kept": (),
        "test_orbax_alone_reads_a_flipped_bit_as_if_nothing_was_wrong": (),
    },
    "examples/training/test_leaves.py": {
        "test_a_change_in_any_place_is_another_fingerprint": ("float32", "keys"),
        "test_a_sharded_array_has_the_same_fingerprint": ("spec2",),
    },
    "examples/training/test_loop.py": {
        "test_a_complete_run_takes_no_more_steps": (),
        "test_a_run_is_that_of_a_python_loop": (),
        "test_an_interrupted_run_ends_as_an_unbroken_one": ("5",),
    },
    "examples/test_train_digits.py": {
        "test_a_wrong_rule_stops_the_script": ("1.01",),
        "test_defaults_reach_97_percent_with_a_right_gradient": ("mlp",),
        "test_each_option_changes_the_run": (),
        "test_the_seed_fixes_the_run": (),
    },
    "examples/test_while_loops.py": {"test_a_wrong_rule_stops_the_script": ()},
    "inspect/flows/test_figure.py": {
        "test_layers_flags_and_numbers": (),
        "test_numbers_that_a_logarithm_cannot_show": (),
    },
    "inspect/flows/test_flags.py": {
        "test_a_healthy_network_has_no_flag": (),
        "test_an_activation_after_a_layer_belongs_to_it": (),
        "test_dead_channels_of_a_convolution": (),
        "test_large_weights_explode": (),
        "test_one_dead_layer": (),
        "test_sigmoids_vanish": (),
        "test_some_dead_units": (),
    },
    "inspect/flows/test_flow.py": {
        "test_a_branch_that_was_not_taken_has_no_numbers": (),
        "test_a_loop_of_training_steps_that_looks_every_tenth_time": (),
        "test_bfloat16_and_complex": (),
        "test_gradients_of_stacked_parameters_are_those_of_each_layer": (),
        "test_numbers_that_squares_would_lose": (),
        "test_places_and_several_arguments_and_aux": (),
        "test_recurrent_network_of_many_steps": (),
        "test_sharded_arrays": (),
        "test_update_ratio": (),
        "test_updates_unlike_the_gradient": (),
        "test_values_and_cotangents": (),
        "test_while_loop": (),
    },
    "inspect/flows/test_layers.py": {
        "test_a_custom_derivative_is_a_row_itself": (),
        "test_a_reversed_scan_is_shown_as_it_runs": (),
        "test_a_scope_around_a_scan_and_one_in_a_jitted_function": (),
        "test_lines_where_there_are_no_scopes": (),
        "test_more_layers_than_rows": (),
        "test_parameters_that_no_layer_reads_alone": (),
        "test_scopes_and_depth": (),
    },
    "inspect/graphs/drawing/test_svg.py": {
        "test_a_value_in_a_scan_has_the_numbers_of_one_step": ("0-0", "1-1", "step3-2"),
        "test_edges_run_around_nodes": ("hidden_layer", "calls", "scoped", "arguments_returned"),
        "test_frames_are_around_what_they_hold_and_nothing_else": (
            "hidden_layer",
            "calls",
            "scoped",
            "arguments_returned",
        ),
        "test_text_is_inside_its_box": ("hidden_layer", "calls", "scoped", "arguments_returned"),
    },
    "inspect/graphs/drawing/test_views.py": {"test_50_000_operations_take_seconds": ()},
    "inspect/graphs/test_page.py": {
        "test_every_step_lights_what_it_is_about": ("used_twice",),
        "test_fits_a_phone": (),
        "test_light_and_dark": ("dark",),
        "test_plays_by_space_and_stops_at_the_end": (),
        "test_steps_inside_a_frame_that_has_no_address": (),
        "test_the_view_follows_the_step": (),
    },
    "inspect/graphs/test_reach.py": {
        "test_structure_and_run_agree": (
            "lecture-args0",
            "checkpointed-args4",
            "carried_late-args6",
            "stopped-args8",
        )
    },
    "inspect/graphs/test_search.py": {
        "test_selectors": (
            "op=sin-['sin']-['sin']",
            "function=layer-['tanh', 'mul', 'jit', 'tanh', 'mul']-['mul', 'jit']",
            "(op=tanh | op=sin)-['tanh', 'tanh', 'sin']-['tanh', 'tanh', 'sin']",
        )
    },
    "inspect/graphs/test_values.py": {
        "test_gradients_of_other_functions": ("nothing", "complex", "grad")
    },
    "inspect/ledger/test_picture.py": {
        "test_bars_add_up_to_what_is_drawn": ("chain", "checkpoint")
    },
    "inspect/ledger/test_suggest.py": {
        "test_done_by_hand": ("function", "scopes"),
        "test_what_cannot_be_computed_again_is_not_suggested": (),
    },
    "inspect/test_command_line.py": {
        "test_help_has_every_sub_command_and_its_examples_run": (),
        "test_output_as_pages_pictures_and_data": ("page of a graph", "table of residuals"),
        "test_sub_command_in_a_shell": (),
    },
    "inspect/test_cost.py": {
        "test_a_scan_counts_as_often_as_it_has_steps": ("7",),
        "test_a_vmapped_loop_goes_on_until_the_last_example_ends": (),
        "test_steps_of_the_gradients_own_loops": (),
    },
    "inspect/test_nonfinite.py": {
        "test_a_fault_on_the_way_back": ("root-plain",),
        "test_a_fault_on_the_way_back_through_a_while_loop": (),
        "test_a_fault_on_the_way_forward": ("plain", "vmap"),
        "test_a_flax_linen_model": (),
        "test_a_known_cause": ("0/0",),
        "test_a_second_derivative": (),
        "test_the_example_under_vmap": (),
        "test_threads_have_reports_of_their_own": (),
        "test_what_is_finite_in_the_end_is_not_reported": ("a maximum that begins at -inf",),
    },
    "inspect/test_places.py": {"test_every_scope_that_is_listed_can_be_selected": ()},
    "inspect/test_residuals.py": {
        "test_total_is_what_a_pullback_holds": ("chain", "scan", "offload")
    },
    "partition/test_axes.py": {"test_rows_that_keep_apart": ("scan", "switch")},
    "partition/test_budget.py": {
        "test_an_impossible_budget_names_the_smallest_possible_one": (),
        "test_computing_again_is_not_undone_by_the_compiler": (),
        "test_estimates_stay_within_budgets_and_repeat_more_the_less_there_is": (),
        "test_gradient": (),
        "test_jax_grad_takes_it_too": (),
        "test_xla_allocates_less_with_less_budget": (),
    },
    "places/test_edits.py": {"test_values": ("zeroed-model-jit", "replaced-model-jit")},
    "places/test_measured.py": {"test_the_measure_is_that_of_what_a_tap_returns": ("in_scan-jit",)},
    "places/test_overrides_by_place.py": {
        "test_a_function_in_one_scope": ("-jit", "jit-jit"),
        "test_a_primitive_in_one_scope": ("plain-plain", "in_a_branch-plain"),
    },
    "places/test_replaced.py": {
        "test_a_scope_is_computed_by_the_function": ("plain-jit", "jit-jit")
    },
    "places/test_selectors.py": {
        "test_calls_of_a_function": ("-jitted", "jit-jitted", "jit-jnp", "remat-library")
    },
    "places/test_taps.py": {
        "test_a_branch_that_is_not_taken_is_absent": ("jit",),
        "test_a_loop_without_steps_is_absent": (),
        "test_taps_inside_transforms_of_jax": (),
        "test_under_vmap_and_in_a_gradient_of_a_gradient": (),
        "test_values_and_cotangents": ("jitted-jit",),
        "test_vjp": ("jit",),
    },
    "places/test_threads.py": {"test_threads_never_meet_and_nothing_leaks": ("jit",)},
    "rules/test_collectives.py": {
        "test_a_rule_is_not_kept_for_an_axis_of_another_size": (),
        "test_all_to_all_that_moves_an_axis": ("1-0",),
        "test_inside_vmap_with_a_named_axis": ("pmean", "all_gather tiled", "all_to_all"),
    },
    "rules/test_elementwise.py": {
        "test_the_derivative_is_as_accurate_as_the_function": (
            "None-exp",
            "AccuracyMode.HIGHEST-exp2",
            "AccuracyMode.HIGHEST-sqrt",
            "AccuracyMode.DEFAULT-log1p",
        )
    },
    "rules/test_fourier.py": {"test_precision_is_kept": ("float32",)},
    "rules/test_functions.py": {
        "test_eigenvalues_of_a_tridiagonal_matrix": (),
        "test_eigenvectors_of_a_tridiagonal_matrix": (),
        "test_second_order_of_eigenvalues": (),
        "test_the_largest_eigenvalues": (),
        "test_vmap_of_the_gradient": (),
    },
    "rules/test_indexing.py": {"test_repeated_multiply_counts_every_factor": ()},
    "rules/test_linalg.py": {
        "test_cholesky_has_a_gradient_in_the_triangle_that_it_reads": (),
        "test_full_svd_has_a_gradient_where_jax_has_none": (),
        "test_pivoted_qr_of_wide_batches_where_jax_errs": (),
        "test_precision_is_kept": (),
        "test_symmetric_product_where_jax_has_no_derivative": (),
    },
    "rules/test_linear.py": {"test_dot_cotangent_has_the_operands_dtype": ("float16",)},
    "rules/test_ordering.py": {"test_a_key_is_sorted_once": ("plain-sort", "plain-<lambda>")},
    "rules/test_ragged.py": {
        "test_both_orders_where_jax_has_fewer": (),
        "test_half_precision": (),
        "test_scaled_dot": (),
        "test_vmap": (),
    },
    "rules/test_reductions.py": {"test_every_length_of_the_tree": ()},
    "rules/test_rows.py": {"test_values_that_are_not_finite": ()},
    "rules/test_shape.py": {"test_device_put_to_another_device": ()},
    "rules/test_sparse.py": {
        "test_block_axes": (),
        "test_entries_that_fill_a_matrix_up_have_no_gradient": (),
        "test_extract_takes_a_repeated_index_once": (),
        "test_indices_shared_by_a_batch": (),
        "test_jacobians_of_dense_arrays_are_batched_along_any_axis": (),
        "test_product_of_two_sparse_arrays": (),
        "test_products_of_the_older_formats": (),
        "test_sparse_grad_is_ours_inside_as_jax_grad": (),
        "test_sparsified_functions": (),
        "test_todense": (),
        "test_who_does_not_use_sparse_arrays_does_not_import_them": (),
    },
    "rules/test_special.py": {
        "test_an_operand_without_derivative_that_is_no_argument_says_nothing": (),
        "test_each_operand_has_a_right_derivative_or_an_error": ("betainc-0",),
        "test_functions_of_jax_scipy": ("digamma", "erfcx", "gamma", "i1e"),
        "test_functions_of_two_arguments_of_jax_scipy": (),
        "test_igamma_has_a_mixed_second_derivative_where_jax_has_none": (),
        "test_the_slope_that_jax_lacks": (),
    },
    "rules/test_windows.py": {"test_dilated_windows": (), "test_negative_padding": ("strides1",)},
    "surgery/methods/test_attn_lrp.py": {
        "test_a_flax_block_is_the_same_as_one_written_out": (),
        "test_equals_the_definition": ("jit",),
    },
    "surgery/methods/test_class_activation.py": {
        "test_a_batch_by_vmap": (),
        "test_a_flax_model_with_channels_last": (),
        "test_equals_the_definition": ("jit",),
        "test_more_than_one_value_is_an_error": (),
    },
    "surgery/methods/test_cotangent_edits.py": {
        "test_equals_the_definition": (
            "norm-flax-jit",
            "reversed-plain-eager",
            "clipped-equinox-jit",
        )
    },
    "surgery/methods/test_feedback_alignment.py": {
        "test_at_one_layer_alone": (),
        "test_the_matrix_is_fixed_and_follows_from_the_seed": (),
    },
    "surgery/methods/test_integrated.py": {
        "test_of_a_layer": ("jit",),
        "test_of_the_input": (),
        "test_of_the_steps_of_a_scan": (),
        "test_of_two_values_at_once": (),
    },
    "surgery/methods/test_kfac.py": {
        "test_a_convolution_has_the_factors_of_its_patches": (),
        "test_dense_layers": ("plain-jit",),
    },
    "surgery/methods/test_low_precision.py": {
        "test_convolutions_and_scans": (),
        "test_products_are_those_of_casts": ("plain-eager", "flax-eager"),
        "test_stochastic_products_are_right_on_average": (),
    },
    "surgery/methods/test_patching.py": {"test_the_steps_of_a_scan_are_patched_apart": ()},
    "surgery/methods/test_per_example.py": {
        "test_a_norm_has_a_gradient": (),
        "test_by_another_argument_with_integers_beside_it": (),
        "test_dense": ("(4,)-jit", "(6, 4)-jit"),
        "test_flax_convolutions": (),
        "test_flax_transformer": (),
        "test_one_example_alone": (),
    },
    "surgery/methods/test_rectifiers.py": {
        "test_a_maximum_with_zero_is_a_rectifier": (),
        "test_equals_the_definition": (),
    },
    "surgery/methods/test_relevance.py": {
        "test_a_batch_normalisation_in_evaluation_belongs_to_the_layer_before": (
            "gamma-linen",
            "z-plus-haiku",
        ),
        "test_a_bias_that_is_added_to_a_jitted_product_belongs_to_the_layer": ("gamma",),
        "test_a_composite": (),
        "test_a_convolution_without_bias_and_its_batch_normalisation": (),
        "test_an_activation_hands_its_relevance_on_whole": (),
        "test_an_activation_of_a_constant_is_a_constant": (),
        "test_equals_the_definition": ("z-plus-jit",),
        "test_flax_and_equinox_models": ("z-plus",),
        "test_relevance_is_conserved_without_biases": (),
        "test_relevance_of_an_inner_layer": (),
    },
    "surgery/methods/test_rescale.py": {
        "test_attributions_sum_to_the_difference": (),
        "test_equals_the_definition": ("tanh-jit",),
        "test_through_a_scan_over_layers_and_a_checkpoint": (),
    },
    "surgery/methods/test_straight_through.py": {"test_argmax_has_the_derivative_of_softmax": ()},
    "surgery/test_kinks.py": {
        "test_a_branch_that_was_not_selected_adds_nothing": (),
        "test_at_a_kink_the_derivative_is_0": ("kinks_in_scan",),
        "test_elements_of_a_row_that_is_masked_may_be_nan": (),
        "test_elsewhere_the_values_are_jaxs": (),
        "test_errors_in_loops_and_under_jit": ("jit",),
        "test_functions_that_are_treated_as_a_whole_broadcast_and_do_not_overflow": (),
        "test_no_error_where_the_kink_is_not_met": (),
        "test_raise": ("jnp.abs(x) at 0",),
        "test_second_derivatives_are_finite": (),
        "test_the_page_has_these_values": (),
        "test_threads_of_jaxs_users": (),
        "test_values": ("jnp.abs(x) at 0",),
        "test_values_under_jit": (),
    },
    "test_accumulation.py": {
        "test_cotangents_are_added_to_references": (),
        "test_reference_as_a_differentiated_argument": (),
        "test_scan_over_batches_with_one_reference": (),
    },
    "test_backward.py": {"test_a_three_body_energy_takes_no_more_memory_than_jax_grads": ()},
    "test_composition.py": {
        "test_equals_jax": ("mlp-jit(grad)",),
        "test_gradient_of_gradient": (),
        "test_jit_over_values_of_an_outer_differentiation": (),
        "test_jitted_function_used_often_is_traced_once": (),
        "test_pullback_out_of_jit_called_twice": (),
        "test_python_control_flow_on_values": (),
        "test_third_order": ("jit",),
        "test_what_python_may_ask_of_a_value": (),
    },
    "test_drop_in.py": {
        "test_all_are_ours_in_the_block": (),
        "test_arguments_are_jax_s": (),
        "test_jax_s_own_modules_ask_us": (),
        "test_names_that_were_imported_before_are_ours_too": (),
        "test_what_funcgrad_asks_jax_is_jax_s": (),
    },
    "test_dtypes.py": {
        "test_elementwise": (),
        "test_products": (),
        "test_reductions_and_normalisations": (),
    },
    "test_effects.py": {
        "test_effects_happen_once_as_without_gradient": ("scan-ordered", "jit-unordered"),
        "test_effects_in_custom_rules": ("custom_vjp-alone", "custom_jvp-jit"),
        "test_kernel_with_custom_vjp": (),
        "test_what_the_message_says_works": ("io_callback-alone",),
    },
    "test_extended_dtypes.py": {
        "test_cotangents_add_up_by_the_rule_of_their_dtype": ("two uses", "reversed", "jit")
    },
    "test_jacobians.py": {"test_hvp_is_the_hessian_times_a_vector": (), "test_jacobians": ()},
    "test_nested.py": {
        "test_the_override_of_a_primitive_is_reported": (
            "linearize in a rule-only there",
            "vjp in a backward-only there",
            "value of vjp-only there",
            "jvp-only there",
        ),
        "test_the_same_under_jit": ("linearize in a rule",),
    },
    "test_nesting.py": {"test_nestings": ("0",)},
    "test_observer.py": {
        "test_cotangents_are_replaced_inside_calls": (
            "plain-eager",
            "jit-jitted",
            "cond-jitted",
            "vmap-eager",
        ),
        "test_every_node_is_told_of": ("plain", "checkpoint"),
        "test_one_jitted_function_in_two_scopes_is_told_apart": ("jitted",),
    },
    "test_op.py": {
        "test_gradient_is_that_of_the_plain_function": ("eager-jax",),
        "test_second_order": (),
    },
    "test_overrides.py": {
        "test_a_rule_is_given_static_arguments_by_name": (
            "plainly-log_softmax of axis 0",
            "plainly-static_argnames",
            "plainly-custom_vjp",
        ),
        "test_an_override_used_by_an_inner_differentiation_counts": (),
        "test_override_applies": ("softmax-under jit", "softmax-in a jitted scan"),
    },
    "test_package.py": {
        "test_a_wheel_holds_the_package_and_a_page_that_holds_anywhere": (),
        "test_an_sdist_holds_what_its_tests_need": (),
        "test_twine_finds_nothing": (),
    },
    "test_pytest_swap.py": {
        "test_a_variable_that_jax_missed_is_named": (),
        "test_every_gradient_is_ours": ("0",),
        "test_strict_refuses_what_only_jax_knows": (),
        "test_without_the_plugin_they_are_jax_s": (),
    },
    "test_readme.py": {
        "test_the_readme_runs_from_top_to_bottom": (),
        "test_what_the_page_of_backward_methods_shows_runs": (),
    },
    "test_settings.py": {"test_gradient": ("double",)},
    "test_slow.py": {"test_the_table_of_slow_tests_is_right": ()},
    "test_state.py": {
        "test_a_cached_custom_jvp_rule_keeps_no_recorded_value": (),
        "test_a_value_that_escapes_is_found_under_checking_leaks": (),
        "test_chain_of_100000_operations": (),
        "test_dropped_differentiation_leaves_no_residuals": (),
        "test_exception_leaves_nothing_behind": ("function", "under jit", "rule", "rule under jit"),
        "test_threads_with_rules_of_their_own": ("2",),
        "test_value_used_10000_times": (),
    },
    "test_symbolic.py": {"test_exported_gradient": ("map",)},
    "test_transforms.py": {
        "test_gradient_of_scalar": (),
        "test_gradient_of_scalar_under_jit": (
            "x64-argnums=-1",
            "x64-empty",
            "x64-strong times weak",
            "x64-float output of ints",
        ),
        "test_pullback_can_be_differentiated": (),
        "test_vjp": ("x32-tree", "x32-integer input", "x32-input", "x32-no output"),
    },
    "testing/fuzz/test_generator.py": {"test_structures_are_made": ()},
    "testing/fuzz/test_many.py": {
        "test_a_failure_is_confirmed_in_a_process_of_its_own": (),
        "test_command_line": (),
        "test_failures_are_runnable_files": (),
    },
    "testing/fuzz/test_one.py": {
        "test_a_gradient_is_compared_in_every_circumstance": ("grad of vmap", "with refs"),
        "test_random_programs": (),
    },
    "testing/test_check_grads.py": {
        "test_a_gradient_that_is_nan_where_there_is_one": ("where",),
        "test_a_search_by_comparisons_is_found_and_named": (),
        "test_a_second_order_that_jax_gets_wrong_too": (),
        "test_an_infinite_derivative_is_left_out": ("cbrt",),
        "test_every_check_runs_in_every_dtype": (),
        "test_kinks_are_left_out_and_named": (),
        "test_right_gradients_pass": ("scalar",),
        "test_third_order": (),
        "test_what_did_not_run_says_why": (),
        "test_what_is_no_array_is_passed_on_as_it_is": ("string",),
        "test_where_a_nan_begins": ("plain",),
    },
    "testing/test_check_rule.py": {
        "test_a_primitive_with_a_body_is_reached_through_a_function": (),
        "test_a_rule_for_several_ops_is_checked_on_the_one_that_occurs": (),
        "test_infinite_operands_are_compared_with_jax_where_consent_is_given": (),
        "test_more_outputs_than_operands": (),
        "test_right_rules_pass": ("--1", "--3", "powered--"),
    },
    "testing/test_mutations.py": {"test_corrupted_rules_are_caught": ("sin",)},
}
"""Files below tests, their slow tests, and of these the rows that stay: those whose id is one of the
names, or has one of them in it."""


def is_slow(file: str, test: str, row: str) -> bool:
    """Whether a test is slow; `row` is the id of its parameters, empty where there are none."""
    kept = SLOW.get(file, {}).get(test)
    return kept is not None and not any(f"-{name}-" in f"-{row}-" for name in kept)


LONG = 3
"""From how many slow rows on a table is run by ``.ci/run`` only in part."""


def is_for_releases(number: int, count: int) -> bool:
    """Whether ``.ci/run`` leaves out the slow row of this number, of so many in its table.

    Of a long table it runs each fourth slow row, of one of more than 12 each eighth. `pytest -m ""` runs
    all of them.
    """
    return count >= LONG and number % (4 if count <= 12 else 8) != 0
