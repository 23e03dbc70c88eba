"""`fastgw waf`: figures for files of attacks and of ordinary texts."""

from fastgw.cli import main


def test_attacks_and_ordinary_texts(tmp_path, capsys):
    (tmp_path / "a.txt").write_text("' or 1=1--\n' or 1=1--\n<script>alert(1)</script>\nhello\n\n")
    (tmp_path / "b.yml").write_text("payload: ['../../etc/passwd', 1]\n")
    assert main(["waf", str(tmp_path), "--missed"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].strip() == "'hello'  score 0"
    assert lines[1].split() == ["66.7", "%", "2", "of", "3", "a.txt"]
    assert lines[3].split() == ["50.0", "%", "1", "of", "2", "b.yml"]
    assert lines[4].split()[:5] == ["60.0", "%", "3", "of", "5"]
    assert main(["waf", str(tmp_path / "a.txt"), "--ordinary"]) == 0
    assert "sqli-" in capsys.readouterr().out


def test_files_that_are_none(tmp_path, capsys):
    (tmp_path / "a.yml").write_text("x: 1")
    for name in ("a.yml", "none.txt"):
        assert main(["waf", str(tmp_path / name)]) == 2
        assert name in capsys.readouterr().err
