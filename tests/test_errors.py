from a2net_tf.errors import list_some, one_line


def test_one_line_of_whatever_names_hold():
    assert one_line("a\nb\tc\x1b[31m\ud800 grün 跳") == "a b c\\x1b[31m\\ud800 grün 跳"
    assert len(one_line("x" * 100_000)) < 2100
    assert one_line("x" * 100_000).count("98000 letters") == 1


def test_list_some():
    assert list_some([1, "b"]) == "1, b"
    assert list_some("abcd", 2) == "a, b and 2 more"
