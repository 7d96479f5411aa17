"""Any checkpoint <-> `Backbone` <-> detectron2, mmsegmentation and torchvision, each step with its proof.

Nothing heavy is loaded here: import the module that you need (`converters.families`, `converters.backbone`).
"""
