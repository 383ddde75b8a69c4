from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from inlearn.charts import theme


def channel(colour: str, at: int) -> float:
    """Linear light of one channel of #rrggbb, sRGB's transfer curve undone."""
    value = int(colour[at : at + 2], 16) / 255
    return value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4


def luminance(colour: str) -> float:
    return 0.2126 * channel(colour, 1) + 0.7152 * channel(colour, 3) + 0.0722 * channel(colour, 5)


def test_known_learners_look_the_same_in_any_company():
    alone = theme.learner_styles(["ridge"])["ridge"]
    assert theme.learner_styles(["bayes filter", "zero", "ridge"])["ridge"] == alone
    assert theme.LEARNERS["model"].dash == ()
    assert all(style.dash for name, style in theme.LEARNERS.items() if name != "model")


@given(
    st.lists(st.text(min_size=1, max_size=8), unique=True, max_size=6).map(lambda names: [f"new {n}" for n in names])
)
def test_unknown_learners_differ_in_both_channels(names):
    styles = theme.learner_styles(names)
    assert list(styles) == names
    assert len({style.colour for style in styles.values()}) == len(names)
    assert len({style.dash for style in styles.values()}) == len(names)


def test_an_unknown_learner_avoids_the_colours_of_known_ones():
    for i in range(30):
        styles = theme.learner_styles(["ridge", "dmmse", f"learner {i}"])
        assert len({style.colour for style in styles.values()}) == 3


@given(st.integers(1, 42))
def test_many_curves_differ(count):
    styles = theme.series_styles([f"curve {i}" for i in range(count)])
    assert len(set(styles.values())) == count


def test_shades_darken_to_the_model():
    shades = [style.colour for style in theme.shades(["a", "b", "c"]).values()]
    assert [luminance(colour) for colour in shades] == sorted((luminance(colour) for colour in shades), reverse=True)
    assert shades[-1] == theme.LEARNERS["model"].colour
    assert theme.shades(["only"])["only"].colour == theme.BLACK


def test_every_colour_stands_out_from_white():
    """Contrast 2 to 1 and more for lines, by the WCAG formula; the floors' names are beside them in text as well."""
    for colour in (*theme.COLOURS, theme.GREY, theme.PALE):
        assert 1.05 / (luminance(colour) + 0.05) >= 2.0


def test_a_legend_keeps_to_a_phone():
    stroke, dash = theme.line_encodings(theme.learner_styles(["a rather long name of a learner", "b"]), "distance to")
    assert stroke.to_dict()["legend"]["columns"] == 1
    assert stroke.to_dict()["legend"] == dash.to_dict()["legend"]
    assert theme.line_encodings(theme.learner_styles(["a", "b"]), None)[0].to_dict()["legend"]["columns"] > 2


def test_more_learners_than_colours_still_differ():
    names = ["ridge", *(f"learner {i}" for i in range(30))]
    assert len(set(map(repr, theme.learner_styles(names).values()))) == len(names)
