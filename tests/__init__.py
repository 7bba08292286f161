"""Tests: they mirror the source, plus integration/. A package, so that `tests.support` has the same name everywhere."""
