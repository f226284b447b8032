"""Make the built-in models ``tiny`` and ``lite``. Nothing that users run imports this room.

``python train.py experiment=pretrain_tiny`` and ``experiment=make_lite`` call the function that
their option ``stage`` names. docs/models/ has the recipes and their results.
"""
