"""What a program calls: inference, and labelling of folders of images."""
