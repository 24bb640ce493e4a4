"""Optical flow by TV-L1 (Zach, Pock and Bischof, 2007), step by step as OpenCV's DualTVL1OpticalFlow does it. Pure.

The flow makes the pictures agree (in absolute differences, weight ``_LAMBDA``) and has few and sharp changes (total
variation). Both pull at two fields that are held together by ``_THETA``: each iteration moves one to agree with the
pictures, closed form, and the other to be smooth, by a step on the dual variables p. Around that: the second picture is
warped by the flow so far, and all is done on small pictures first.

An iteration is some fifty operations on each pixel and little else than memory, so what the arrays look like decides.
The fields live in arrays with a border of one, which is never written: the neighbours of every pixel are then plain
slices, which XLA makes loops without branches of, and an iteration changes them in place.
"""

import numpy as np
import tensorflow as tf

# OpenCV's defaults.
_TAU, _LAMBDA, _THETA = 0.25, 0.15, 0.3
_SCALES, _SCALE_STEP = 5, 0.8
_WARPS, _OUTER, _INNER = 5, 10, 30
_EPSILON = 0.01  # pixels that the flow moves in an iteration, root mean square, when it has converged
_SMALLEST = 16  # pixels: no scale has a side below it
_CUBIC = -0.75  # slope of the kernel that pictures are warped with
_MARGIN = 4  # of zeros around a warped picture


@tf.function(jit_compile=True, autograph=False)
def tvl1(first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
    """How far each pixel of the first pictures has moved in the second ones.

    Args:
        first: f32[N, H, W], grey, 0 to 255; H and W at least 3, known when it is traced.
        second: the same.

    Returns:
        f32[N, H, W, 2], pixels to the right and downwards.
    """
    pyramid = _pyramid(first, second)
    flow = [tf.zeros_like(pyramid[-1][0])] * 2
    for level in reversed(range(len(pyramid))):
        flow = _one_scale(*pyramid[level], flow)
        if level:
            shape = pyramid[level - 1][0].shape
            flow = [_resize(u, shape[1], shape[2]) / _SCALE_STEP for u in flow]
    return tf.stack(flow, axis=-1)


def _pyramid(first: tf.Tensor, second: tf.Tensor) -> list[tuple[tf.Tensor, tf.Tensor]]:
    """Both pictures at each scale, the largest first."""
    found = [(first, second)]
    while len(found) < _SCALES:
        height, width = (round(side * _SCALE_STEP) for side in found[-1][0].shape[1:])
        if min(height, width) < _SMALLEST:
            break
        found.append(tuple(_resize(image, height, width, 1 / _SCALE_STEP) for image in found[-1]))
    return found


def _resize(image: tf.Tensor, height: int, width: int, step: float = 0.0) -> tf.Tensor:
    """[N, height, width], bilinear; ``step``: pixels of ``image`` from one of the result to the next, 0 if all fit."""
    for axis, length in ((1, height), (2, width)):
        before, after, share = _between(image.shape[axis], length, step)
        share = share.reshape([-1 if each == axis else 1 for each in range(3)])
        image = tf.gather(image, before, axis=axis) * (1 - share) + tf.gather(image, after, axis=axis) * share
    return image


def _between(source: int, target: int, step: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each of ``target`` pixels the two of ``source`` pixels that it lies between, and the share of the second."""
    place = (np.arange(target) + 0.5) * (step or source / target) - 0.5
    place = np.clip(place, 0, source - 1)
    before = np.floor(place).astype(np.int32)
    return before, np.minimum(before + 1, source - 1), (place - before).astype(np.float32)


def _one_scale(first: tf.Tensor, second: tf.Tensor, flow: list[tf.Tensor]) -> list[tf.Tensor]:
    """The flow [N, H, W], twice, of pictures of one size, from a first guess."""
    num, height, width = first.shape
    planes = _planes(second)
    u = tuple(tf.pad(part, [[0, 0], [0, 1], [0, 1]]) for part in flow)
    p = tuple(tf.zeros([num, height + 1, width + 1]) for _ in range(4))

    def warp(count: tf.Tensor, u: tuple, p: tuple) -> tuple:
        u, p = _converge(_warped(first, planes, *map(_inside_u, u)), u, p)
        return count + 1, u, p

    _, u, _ = tf.while_loop(lambda count, *_: count < _WARPS, warp, (0, u, p))
    return [_inside_u(part) for part in u]


# What stays the same in all iterations of a warp


def _planes(image: tf.Tensor) -> list[tf.Tensor]:
    """The picture and its slopes to the right and downwards, each with a margin of zeros and made one long list."""
    along, down = _edges(image, 2, 1), _edges(image, 1, 1)
    fields = image, (along[:, :, 2:] - along[:, :, :-2]) / 2, (down[:, 2:] - down[:, :-2]) / 2
    margins = [[0, 0], [_MARGIN, _MARGIN], [_MARGIN, _MARGIN]]
    return [tf.reshape(tf.pad(field, margins), [-1]) for field in fields]


def _warped(first: tf.Tensor, planes: list[tf.Tensor], u1: tf.Tensor, u2: tf.Tensor) -> tuple[tf.Tensor, ...]:
    """Slopes of the warped second picture; the constant part of its difference to the first; -1 / slope squared."""
    num, height, width = first.shape
    column, along = _place(u1, np.arange(width), width)
    row, down = _place(u2, np.arange(height)[:, None], height)
    line, lines = width + 2 * _MARGIN, height + 2 * _MARGIN  # of a plane
    picture = np.arange(num, dtype=np.int32)[:, None, None] * lines * line
    corner = picture + (row + _MARGIN - 1) * line + column + _MARGIN - 1
    image, ix, iy = (_cubic_sum(plane, corner, line, along, down) for plane in planes)
    square = ix * ix + iy * iy
    inverse = tf.where(square > np.finfo(np.float32).eps, -1 / square, 0.0)
    return ix, iy, image - ix * u1 - iy * u2 - first, inverse


def _place(shift: tf.Tensor, grid: np.ndarray, length: int) -> tuple[tf.Tensor, tf.Tensor]:
    """The pixel before each place that is looked at, and how far the place is behind it, 0 to 1."""
    place = tf.clip_by_value(shift + grid.astype(np.float32), -3, length + 1)  # beyond them all pixels are 0
    pixel = tf.floor(place)
    return tf.cast(pixel, tf.int32), place - pixel


def _cubic_sum(plane: tf.Tensor, corner: tf.Tensor, line: int, along: tf.Tensor, down: tf.Tensor) -> tf.Tensor:
    """Weighted sums of 4 x 4 values, of which ``corner`` are the first places in a plane with lines of that length."""
    across, upright = _cubic(along), _cubic(down)
    return sum(
        upright[i] * sum(across[j] * tf.gather(plane, corner + (i * line + j)) for j in range(4)) for i in range(4)
    )


def _cubic(share: tf.Tensor) -> list[tf.Tensor]:
    """Weights of the four pixels around a place that lies ``share`` behind the second of them."""
    a = _CUBIC
    before = ((a * (share + 1) - 5 * a) * (share + 1) + 8 * a) * (share + 1) - 4 * a
    second = ((a + 2) * share - (a + 3)) * share * share + 1
    third = ((a + 2) * (1 - share) - (a + 3)) * (1 - share) * (1 - share) + 1
    return [before, second, third, 1 - before - second - third]


# The iterations


def _converge(constants: tuple[tf.Tensor, ...], u: tuple, p: tuple) -> tuple[tuple, tuple]:
    """Iterations until all pairs have converged; one that has converged is left as it is."""
    num, height, width = constants[0].shape
    limit = np.float32(_EPSILON**2 * height * width)

    def going(error: tf.Tensor) -> tf.Tensor:
        return error > limit

    def outer(count: tf.Tensor, error: tf.Tensor, u: tuple, p: tuple) -> tuple:
        both = tf.concat([_inside_u(part) for part in u], axis=0)
        smooth = tf.where(tf.tile(going(error), [2])[:, None, None], _median(both), both)
        u = _put_u(u[0], smooth[:num]), _put_u(u[1], smooth[num:])

        def inner(count: tf.Tensor, error: tf.Tensor, u: tuple, p: tuple) -> tuple:
            return count + 1, *_iterate(constants, going(error), error, u, p)

        _, error, u, p = tf.while_loop(
            lambda count, error, *_: (count < _INNER) & tf.reduce_any(going(error)), inner, (0, error, u, p)
        )
        return count + 1, error, u, p

    state = (0, tf.fill([num], np.float32(np.inf)), u, p)
    _, _, u, p = tf.while_loop(lambda count, error, *_: (count < _OUTER) & tf.reduce_any(going(error)), outer, state)
    return u, p


def _iterate(constants: tuple, going: tf.Tensor, error: tf.Tensor, u: tuple, p: tuple) -> tuple:
    """One iteration of the pairs that are ``going``: the sum of squared changes [N], flow, dual variables."""
    ix, iy, difference, inverse = constants
    u1, u2 = map(_inside_u, u)
    step = tf.clip_by_value((difference + ix * u1 + iy * u2) * inverse, -_LAMBDA * _THETA, _LAMBDA * _THETA)
    new1 = u1 + step * ix + _THETA * _divergence(p[0], p[1])
    new2 = u2 + step * iy + _THETA * _divergence(p[2], p[3])
    changed = tf.reduce_sum((new1 - u1) ** 2 + (new2 - u2) ** 2, axis=[1, 2])
    u = _put_u(u[0], _where(going, new1, u1)), _put_u(u[1], _where(going, new2, u2))
    p = *_dual(u[0], p[0], p[1], going), *_dual(u[1], p[2], p[3], going)
    return tf.where(going, changed, error), u, p


def _divergence(along: tf.Tensor, down: tf.Tensor) -> tf.Tensor:
    return along[:, 1:, 1:] - along[:, 1:, :-1] + down[:, 1:, 1:] - down[:, :-1, 1:]


def _dual(u: tf.Tensor, along: tf.Tensor, down: tf.Tensor, going: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The dual variables of one part of the flow after a step; nothing flows over the borders of the picture."""
    height, width = u.shape[1] - 1, u.shape[2] - 1
    right = (u[:, :-1, 1:] - u[:, :-1, :-1]) * (np.arange(width) < width - 1).astype(np.float32)
    below = (u[:, 1:, :-1] - u[:, :-1, :-1]) * (np.arange(height) < height - 1).astype(np.float32)[:, None]
    share = 1 / (1 + _TAU / _THETA * tf.sqrt(right * right + below * below))
    stepped = [
        (part[:, 1:, 1:], (part[:, 1:, 1:] + _TAU / _THETA * slope) * share)
        for part, slope in ((along, right), (down, below))
    ]
    return tuple(
        _put(part, _where(going, new, old), (0, 1, 1)) for part, (old, new) in zip((along, down), stepped, strict=True)
    )


def _where(chosen: tf.Tensor, new: tf.Tensor, old: tf.Tensor) -> tf.Tensor:
    """``new`` of the pairs that are chosen [N], ``old`` of the others."""
    return tf.where(chosen[:, None, None], new, old)


def _inside_u(u: tf.Tensor) -> tf.Tensor:
    """Without the border, which flow has at the right and below (dual variables: left and above)."""
    return u[:, :-1, :-1]


def _put_u(u: tf.Tensor, inside: tf.Tensor) -> tf.Tensor:
    return _put(u, inside, (0, 0, 0))


def _put(array: tf.Tensor, part: tf.Tensor, start: tuple[int, ...]) -> tf.Tensor:
    """``array`` with ``part`` in it. XLA writes it in place."""
    end = [begin + length for begin, length in zip(start, part.shape, strict=True)]
    return tf.raw_ops.TensorStridedSliceUpdate(input=array, begin=start, end=end, strides=[1] * 3, value=part)


# The median


def _median(image: tf.Tensor) -> tf.Tensor:
    """The median of the 5 x 5 pixels around each; pictures go on as at their edges.

    Columns are sorted first, which neighbours share, then the rows of that. In a square that is sorted both ways 6
    values are surely below the median and 6 surely above it, so that it is the median of the 13 others.
    """
    height, width = image.shape[1:]
    image = _edges(_edges(image, 1, 2), 2, 2)
    columns = _sorted([image[:, shift : shift + height] for shift in range(5)])
    rows = [_sorted([each[:, :, shift : shift + width] for shift in range(5)]) for each in columns]
    middle = [rows[i][j] for i in range(5) for j in range(5) if (i + 1) * (j + 1) <= 13 and (5 - i) * (5 - j) <= 13]
    return _sorted(middle)[6]


def _sorted(values: list[tf.Tensor]) -> list[tf.Tensor]:
    """Each element sorted over the list, by Batcher's exchanges (Knuth 5.2.2 M); XLA drops what nobody asks for."""
    values, count = list(values), len(values)
    highest = 1 << (count - 1).bit_length() - 1
    p = highest
    while p:
        q, r, d = highest, 0, p
        while d:
            for i in range(count - d):
                if i & p == r:
                    low, high = values[i], values[i + d]
                    values[i], values[i + d] = tf.minimum(low, high), tf.maximum(low, high)
            d, q, r = (q - p, q // 2, p) if q != p else (0, q, r)
        p //= 2
    return values


def _edges(image: tf.Tensor, axis: int, count: int) -> tf.Tensor:
    """``image`` with its first and last line along an axis repeated ``count`` times more."""
    first, last = tf.gather(image, [0], axis=axis), tf.gather(image, [image.shape[axis] - 1], axis=axis)
    return tf.concat([first] * count + [image] + [last] * count, axis=axis)
