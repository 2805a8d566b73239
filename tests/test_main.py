"""What ``python -m funcgrad`` says."""

from __future__ import annotations

import runpy
from pathlib import Path

import jax

import funcgrad
from funcgrad import __main__ as main
from funcgrad.__main__ import documentation


def test_it_says_versions_devices_and_where_the_documentation_is(capsys):
    runpy.run_path(main.__file__, run_name="__main__")
    said = dict(line.split(":", 1) for line in capsys.readouterr().out.splitlines())
    said = {name: text.strip() for name, text in said.items()}
    assert said["funcgrad"].startswith(funcgrad.__version__)
    assert said["JAX"].startswith(jax.__version__)
    assert said["devices"] == f"{len(jax.devices())} {jax.devices()[0].platform}"
    assert Path(said["documentation"]).is_file()


def test_the_documentation_of_a_checkout_is_its_site_or_its_pages(tmp_path):
    page, site = tmp_path / "docs" / "index.md", tmp_path / "docs" / "_build" / "index.html"
    site.parent.mkdir(parents=True)
    page.write_text("# funcgrad")
    assert documentation(tmp_path) == str(page)
    site.write_text("<html>")
    assert documentation(tmp_path) == str(site)


def test_without_a_checkout_help_leads_on(tmp_path):
    assert documentation(tmp_path) == "help(funcgrad) in Python"
