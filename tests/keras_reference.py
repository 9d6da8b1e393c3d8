"""What Keras makes of VGG19's arrays, by its names; in a process of its own, as it needs eager execution."""

import numpy as np
import tensorflow as tf


def write_model(path, weights):
    layers = [tf.keras.Input([None, None, 3])]
    layers += [tf.keras.layers.Conv2D(b.size, 3, name=name) for name, (_, b) in weights.items()]
    model = tf.keras.Sequential(layers)
    for layer, arrays in zip(model.layers, weights.values()):
        layer.set_weights(arrays)
    tf.get_logger().setLevel("ERROR")
    model.save(path)


def features(weights, image, layers):
    model = tf.keras.applications.VGG19(include_top=False, weights=None)
    for name, arrays in weights.items():
        model.get_layer(name).set_weights(arrays)
    outputs = [model.get_layer(layer).output for layer in layers]
    inputs = tf.keras.applications.vgg19.preprocess_input(image[None].astype(np.float32))
    return [np.array(tensor) for tensor in tf.nest.flatten(tf.keras.Model(model.input, outputs)(inputs))]
