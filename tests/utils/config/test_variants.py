from utils.config.variants import VARIANTS, find_variant, row_of


def test_a_variant_is_found_by_its_name_whatever_its_case():
    assert find_variant("cn*") is VARIANTS["CN*"]
    assert str(find_variant("CN*")) == "CN --num_groups 16"
    assert find_variant("CN*").words == {"num_groups": ["16"]}


def test_any_other_name_is_the_layer_itself():
    assert (find_variant("TBBN").norm, find_variant("TBBN").words) == ("TBBN", {})


def test_row_of_a_run_is_told_by_its_options():
    assert row_of({"nl": "CN", "num_groups": 16}) == "CN*"
    assert row_of({"nl": "CN", "num_groups": 8}) == row_of({"nl": "CN"}) == "CN"
    assert row_of({"nl": "GN", "num_groups": 16}) == "GN"
