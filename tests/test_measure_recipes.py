"""The measurement of recipes goes through, at a count that measures little."""

from measure_recipes import measured


def test_every_way_back_is_tried(browser, server, tmp_path, capsys):
    same = measured(browser, server, tmp_path, recipes=1, steps=4)
    assert same == dict.fromkeys(("PNG", "JSON", "link", "command", "client"), 1), capsys.readouterr().err
