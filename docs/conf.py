"""Settings of the documentation site; `nox -s docs` builds it."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import api_pages

import adepoll

project = "adepoll"
copyright = "The adepoll developers"  # noqa: A001 - Sphinx reads this name
release = version = adepoll.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "examples"]
myst_heading_anchors = 4  # the anchors of GitHub: [text](page.md#heading)
myst_enable_extensions = ["colon_fence"]

default_role = "code"  # `name` in docstrings
autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # attributes of attrs classes are documented in the class's docstring
napoleon_preprocess_types = False

html_theme = "furo"  # light and dark, phones, and a search that needs no server
html_title = f"adepoll {version}"
html_static_path = ["_static"]
html_css_files = ["tables.css"]
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {"navigation_with_keys": True}

api_pages.write(Path(__file__).parent / "api")
