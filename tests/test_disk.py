from atrous.disk import append_lines


def test_lines_are_added_one_after_the_other(tmp_path):
    append_lines(tmp_path / "a", ["one", "two"])
    append_lines(tmp_path / "a", ["three"])
    assert (tmp_path / "a").read_text() == "one\ntwo\nthree\n"


def test_a_torn_line_stays_alone(tmp_path):
    (tmp_path / "a").write_bytes(b"one\ntw")
    append_lines(tmp_path / "a", ["three"])
    assert (tmp_path / "a").read_text() == "one\ntw\nthree\n"
