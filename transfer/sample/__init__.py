"""Sample data: image folder, VOC, COCO and Cityscapes layouts, made of photographs that installed packages carry."""
