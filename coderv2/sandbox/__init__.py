"""Strangers' programs: run one under limits (`run`), find what compiles it (`toolchains`), judge many (`judge`)."""
