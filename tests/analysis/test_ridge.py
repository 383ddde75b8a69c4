"""The closed form against normal equations solved as they stand; what a linear read-out can and cannot do."""

from __future__ import annotations

import planted
import pytest
import torch
import torch.nn.functional as F

from inlearn.analysis.probe.fit import fitted
from inlearn.analysis.probe.ridge import CHUNK, RIDGES, ridge, standardise

FITTING, CHOOSING, JUDGING = planted.PARTS


def slow(x, y, strength):
    """(weight, bias) of ridge regression with a free intercept: (x'x/n + ridge) w = x'y/n about the means."""
    centre, mean = x.mean(0), y.mean(0)
    square = (x - centre).T @ (x - centre) / len(x) + strength * torch.eye(x.shape[1], dtype=x.dtype)
    weight = torch.linalg.solve(square, (x - centre).T @ (y - mean) / len(x))
    return weight, mean - centre @ weight


@pytest.mark.parametrize("quantity", [False, True])
def test_the_closed_form_is_the_solution_of_the_normal_equations_with_the_ridge_that_errs_least(quantity):
    classes = planted.labels()
    x = planted.planted(classes, 1.5)
    target = torch.stack((classes.double() ** 2, -planted.noise(5)[:, 0].double()), 1) if quantity else classes
    wanted = target if quantity else F.one_hot(classes).double()
    few = slice(0, 30)  # so that a ridge helps
    standardise(x, few)
    (read,) = ridge(x, few, CHOOSING, [target], [None if quantity else planted.CLASSES])
    errors = {}
    for strength in RIDGES:
        weight, bias = slow(x[few].double(), wanted[few], strength)
        errors[strength] = float((x[CHOOSING].double() @ weight + bias - wanted[CHOOSING]).square().sum())
    assert read.ridge == min(errors, key=errors.get)
    assert RIDGES[0] < read.ridge < RIDGES[-1]
    weight, bias = slow(x[few].double(), wanted[few], read.ridge)
    torch.testing.assert_close(read(x.double()), x.double() @ weight + bias, atol=1e-5, rtol=1e-5)


def test_standardised_activations_have_mean_0_and_mean_square_1_where_they_vary_and_are_0_where_not():
    x = planted.planted(planted.labels(), 1.0)
    x[:, 3], x[:, 4] = 1e4 / 3, 0.0
    x[:, 5] = 1e3 + 1e-2 * x[:, 5]
    standardise(x, FITTING)
    own = x[FITTING].double()
    varied = [i for i in range(planted.WIDTH) if i not in (3, 4)]
    assert own.mean(0)[varied].abs().max() < 1e-2
    torch.testing.assert_close(own.square().mean(0)[varied], torch.ones(len(varied), dtype=torch.float64))
    assert (x[:, [3, 4]] == 0).all()


def test_classes_beyond_one_hot_and_positions_beyond_a_chunk_are_summed_alike():
    n, many = CHUNK + 700, 200
    classes = torch.randint(0, many, (n,), generator=planted.generator())
    x = torch.randn(n, 5, generator=planted.generator(1)) + classes[:, None] / many
    standardise(x, slice(0, CHUNK + 300))
    parts = slice(0, CHUNK + 300), slice(CHUNK + 300, n)
    (read,) = ridge(x, *parts, [classes], [many])
    weight, bias = slow(x[parts[0]].double(), F.one_hot(classes, many)[parts[0]].double(), read.ridge)
    torch.testing.assert_close(read(x.double()), x.double() @ weight + bias, atol=1e-6, rtol=1e-5)


def test_known_linear_information_is_read_exactly_and_noise_scores_no_more_than_the_likeliest_class():
    classes, rows = planted.labels(), planted.rows()
    known = {("given", "class"): classes, ("given", "square"): (classes.double() ** 2)[:, None]}
    clear = fitted(planted.planted(classes, 40.0), known, planted.PARTS, rows, "ridge")
    assert clear["given", "class"].score.ratio.value == 1.0
    assert clear["given", "square"].score.ratio.value > 0.99
    nothing = fitted(planted.noise(), known, planted.PARTS, rows, "ridge")
    chance = nothing["given", "class"].score
    assert chance.ratio.low <= 0.25 <= chance.ratio.high and chance.without == pytest.approx(0.25, abs=0.08)
    assert nothing["given", "square"].score.ratio.value < 0.05


def test_a_middle_class_on_a_line_needs_the_logistic_form():
    """Three classes in a row: least squares never finds the middle one likeliest, the logistic form does."""
    classes = planted.labels() % 3
    x = classes[:, None].float() + 0.05 * planted.noise()[:, :1]
    scores = {
        method: fitted(x.clone(), {("given", "class"): classes}, planted.PARTS, planted.rows(), method)
        for method in ("ridge", "logistic")
    }
    least_squares, logistic = (scores[m]["given", "class"].score.ratio.value for m in ("ridge", "logistic"))
    assert logistic > 0.99 and least_squares < 0.8


def test_the_logistic_form_is_where_the_gradient_vanishes():
    from inlearn.analysis.probe.logistic import logistic

    classes = planted.labels()
    x = planted.planted(classes, 1.0).double()
    standardise(x, FITTING)
    read = logistic(x, FITTING, CHOOSING, classes, planted.CLASSES)
    weight, bias = read.weight.clone().requires_grad_(), read.bias.clone().requires_grad_()
    loss = F.cross_entropy(x[FITTING] @ weight + bias, classes[FITTING]) + read.ridge / 2 * weight.square().sum()
    loss.backward()
    assert weight.grad.abs().max() < 1e-5 and bias.grad.abs().max() < 1e-5


def test_a_target_that_is_undefined_in_places_is_fitted_and_judged_on_the_others_alone():
    classes, rows = planted.labels(), planted.rows()
    x = planted.planted(classes, 40.0)
    holes = classes.clone()
    holes[::3] = -1
    wrong = torch.where(torch.arange(len(classes)) % 3 == 0, (classes + 1) % planted.CLASSES, classes)
    some = {("given", "some"): holes, ("given", "wrong"): wrong}
    found = fitted(x.clone(), some, planted.PARTS, rows, "ridge")
    assert found["given", "some"].score.ratio.value == 1.0
    assert found["given", "some"].score.below.sum() == (holes[JUDGING] >= 0).sum()
    assert found["given", "wrong"].score.ratio.value < 0.9
    holes[CHOOSING] = -1
    assert fitted(x.clone(), {("given", "some"): holes}, planted.PARTS, rows, "ridge") == {}
