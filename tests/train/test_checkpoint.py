"""Names, shapes and bytes of checkpoints: the bundled model survives load and save."""

import json
import os
import tempfile
import unittest

import numpy as np
from rxt_train import checkpoint
from rxt_train.bpe import Bpe
from rxt_train.shape import Shape

BUNDLED = os.path.join("models", os.listdir("models")[0])


class Bf16(unittest.TestCase):
    def test_rounds_to_nearest_even(self):
        x = np.array([1.0, 1.00390625, 1.01171875, -3.0e38, 1e-30, 0.0], np.float32)
        back = checkpoint.from_bf16(checkpoint.to_bf16(x))
        self.assertEqual(back[0], 1.0)
        self.assertEqual(back[1], 1.0)  # half way: the even mantissa
        self.assertEqual(back[2], 1.015625)  # half way again, upwards to the even one
        self.assertTrue((np.abs(back - x) <= np.abs(x) / 256).all())
        self.assertTrue(np.isnan(checkpoint.from_bf16(checkpoint.to_bf16(np.float32([np.nan])))[0]))


class Bundled(unittest.TestCase):
    def test_comes_back_whole(self):
        shape, config, arrays = checkpoint.load(BUNDLED)
        stored = checkpoint.read_safetensors(os.path.join(BUNDLED, "model.safetensors"))
        bpe = Bpe.load(os.path.join(BUNDLED, "tokenizer.json"))
        with open(os.path.join(BUNDLED, "tokenizer.json"), encoding="utf-8") as f:
            tokenizer = f.read()
        with tempfile.TemporaryDirectory() as folder:
            checkpoint.save(folder, shape, arrays, bpe.token_ids(), tokenizer)
            again = checkpoint.read_safetensors(os.path.join(folder, "model.safetensors"))
            with open(os.path.join(folder, "config.json"), encoding="utf-8") as f:
                new_config = json.load(f)
        alias = {"encoder.model.embedding.weight"}  # the embedding is written once
        self.assertEqual(set(stored) - alias, set(again))
        for name, value in again.items():
            np.testing.assert_array_equal(value, stored[name], err_msg=name)
        for part in ("decoder_config", "encoder_config", "memory_attention_config"):
            self.assertEqual(new_config[part], config[part])
        self.assertEqual(new_config["tokenizer_config"], config["tokenizer_config"])

    def test_refuses_a_missing_and_a_foreign_tensor(self):
        shape, _, arrays = checkpoint.load(BUNDLED)
        tensors = checkpoint.to_published(shape, arrays)
        norm = tensors.pop("decoder.model.head_norm.weight")
        with self.assertRaisesRegex(ValueError, "head_norm"):
            checkpoint.from_published(shape, tensors)
        tensors["decoder.model.head_norm.weight"] = norm
        tensors["decoder.model.extra"] = norm
        with self.assertRaisesRegex(ValueError, "extra"):
            checkpoint.from_published(shape, tensors)
        del tensors["decoder.model.extra"]
        tensors["decoder.model.head_norm.weight"] = norm[:8]
        with self.assertRaisesRegex(ValueError, "shape"):
            checkpoint.from_published(shape, tensors)


class DemoShape(unittest.TestCase):
    def test_fits_the_tree(self):
        shape = Shape()
        count = sum(int(np.prod(size)) for size in shape.tensors().values())
        self.assertEqual(count, 15_422_482)
        self.assertLess(2 * count, 32_000_000 - 65536)

    def test_every_element_is_published_once(self):
        shape = Shape(vocab=32, dim=16, heads=4, n_layer=2, n_slot=4, ff=24, dec_q=2, dec_kv=1,
                      enc_q=2, enc_kv=2, mem_q=2, mem_kv=2)
        rng = np.random.default_rng(1)
        arrays = {k: rng.random(v, np.float32) for k, v in shape.tensors().items()}
        tensors = checkpoint.to_published(shape, arrays)
        self.assertEqual(sum(t.size for t in tensors.values()), sum(a.size for a in arrays.values()))
        back = checkpoint.from_published(shape, tensors)
        for name, value in arrays.items():
            np.testing.assert_array_equal(value, back[name], err_msg=name)

    def test_config_describes_itself(self):
        shape = Shape()
        config = shape.config({"pad": 0, "bos": 2, "eos": 3, "query": 5, "answer": 6})
        self.assertEqual(Shape.of_config(config), shape)
        config["memory_attention_variant"] = "simple"
        with self.assertRaisesRegex(ValueError, "simple"):
            Shape.of_config(config)


if __name__ == "__main__":
    unittest.main()
