"""The metrics file has each step once, whatever ended the run that wrote it."""

import json

import jax.numpy as jnp
import numpy as np
import pytest


@pytest.fixture
def metrics():
    import metrics

    return metrics


def steps(metrics, folder):
    return [line["step"] for line in metrics.read(folder / "metrics.jsonl")]


def test_values_are_written_as_they_are(metrics, tmp_path):
    with metrics.Metrics(tmp_path / "new") as written:
        written.add(1, {"loss": jnp.float32(0.1), "count": jnp.int32(3)})
        written.flush()
    (line,) = metrics.read(tmp_path / "new" / "metrics.jsonl")
    assert line == {"step": 1, "loss": float(np.float32(0.1)), "count": 3.0}


def test_a_step_is_written_when_the_next_is_added(metrics, tmp_path):
    with metrics.Metrics(tmp_path) as written:
        written.add(1, {"loss": 1.0})
        assert steps(metrics, tmp_path) == []
        written.add(2, {"loss": 2.0})
        assert steps(metrics, tmp_path) == [1]
        written.sync()
        assert steps(metrics, tmp_path) == [1, 2]


@pytest.mark.parametrize("done", [0, 2, 3])
@pytest.mark.parametrize("rest", ["", '{"step": 4, "lo', '{"step": 4, "loss": 4.0}\n'])
def test_a_resumed_file_ends_with_the_last_step_done(metrics, tmp_path, done, rest):
    lines = [json.dumps({"step": step, "loss": float(step)}) + "\n" for step in (1, 2, 3)]
    (tmp_path / "metrics.jsonl").write_text("".join(lines) + rest)
    with metrics.Metrics(tmp_path, done) as written:
        assert steps(metrics, tmp_path) == [1, 2, 3][:done]
        written.add(done + 1, {"loss": 0.0})
        written.flush()
    assert steps(metrics, tmp_path) == list(range(1, done + 2))


def test_a_line_that_is_no_json_is_an_error(metrics, tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1\n{"step": 2}\n')
    with pytest.raises(ValueError, match="delimiter"):
        metrics.Metrics(tmp_path, 2)
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1\n{"step": 2}\n'


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_written_and_an_error(metrics, tmp_path, value):
    with metrics.Metrics(tmp_path) as written:
        written.add(1, {"loss": 1.0, "norm": value})
        with pytest.raises(FloatingPointError, match=r"step 1: .*funcgrad\.inspect\.nonfinite"):
            written.flush()
    assert steps(metrics, tmp_path) == [1]


def test_a_plot_has_a_panel_for_each_metric(metrics, tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(metrics, "Figure", lambda *a, **k: made.append(Figure(*a, **k)) or made[-1])
    from matplotlib.figure import Figure

    with metrics.Metrics(tmp_path) as written:
        for step in range(1, 121):
            written.add(step, {"loss": 100.0 / step, "accuracy": 0.1})
        written.flush()
    metrics.plot(written.path, tmp_path / "plot.png", "A run")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    loss, accuracy = made[0].axes
    assert [loss.get_title("left"), accuracy.get_title("left")] == ["loss", "accuracy"]
    assert [loss.get_yscale(), accuracy.get_yscale()] == ["log", "linear"]
    each, mean = loss.lines
    np.testing.assert_allclose(each.get_ydata(), 100 / np.arange(1, 121))
    assert mean.get_xdata()[[0, -1]].tolist() == [2, 119]
    np.testing.assert_allclose(mean.get_ydata()[0], (100 + 50 + 100 / 3) / 3, rtol=1e-12)


def test_a_file_without_lines_has_no_plot(metrics, tmp_path):
    with metrics.Metrics(tmp_path) as written:
        written.flush()
    metrics.plot(tmp_path / "metrics.jsonl", tmp_path / "plot.png", "A run")
    assert not (tmp_path / "plot.png").exists()
