"""How the built-in models ``tiny`` and ``lite`` are made: no command but these two needs it.

``python train.py experiment=pretrain_tiny`` and ``experiment=make_lite`` call it by the name that
their option ``stage`` gives. docs/models/ has the recipes and their results.
"""
