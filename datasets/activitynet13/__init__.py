"""ActivityNet v1.3 temporal action localization: 200 classes, whole videos as feature sequences."""
