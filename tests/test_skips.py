"""A test that cannot run on a machine where it should is a failure, if asked for."""

import pytest

pytest_plugins = ["pytester"]


@pytest.mark.parametrize(("options", "passed", "skipped", "failed"), [((), 1, 2, 0), (("--fail-on-skip",), 1, 0, 2)])
def test_skips_fail_where_asked(
    pytester: pytest.Pytester, options: tuple[str, ...], passed: int, skipped: int, failed: int
) -> None:
    pytester.makepyfile(
        """
        import pytest

        def test_runs(): pass

        def test_skips(): pytest.skip("needs root")

        @pytest.mark.skipif(True, reason="needs Linux")
        def test_is_skipped(): pass
        """
    )
    found = pytester.runpytest_inprocess("-p", "support.skips", "-p", "no:cacheprovider", *options)
    counts = found.parseoutcomes()
    assert (counts.get("passed", 0), counts.get("skipped", 0), counts.get("failed", 0) + counts.get("errors", 0)) == (
        passed,
        skipped,
        failed,
    )
    if failed:
        found.stdout.fnmatch_lines(["*needs root (a skip is a failure*"])
