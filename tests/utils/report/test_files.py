from utils.report.files import file_stem


def test_a_title_is_a_name_that_a_disk_can_hold_and_no_two_share_one():
    titles = ["seq-digits er 200", "seq-digits/er 200", "seq-digits-er-200 ", "a" * 200, "a" * 201, "Ü", "\ud800", ""]
    assert file_stem(titles[0]) == "seq-digits-er-200"
    assert len({file_stem(title) for title in titles}) == len(titles)
    assert all(len(file_stem(title)) < 120 and "/" not in file_stem(title) for title in titles)
