"""R-C3D on raw video: pixels in place of features, C3D in front, one level of anchors and a second stage behind it."""
