"""From files to windows: feature files, annotations, prepared datasets, augmentation, the input pipeline."""
