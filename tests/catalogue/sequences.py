"""Sequence models: attention, recurrence, tied embeddings, and batches that are not at dim 0."""

import torch
import torch.nn.functional as F
from torch import nn

from .row import Case, Cost, call, fit, row, sgd

VOCABULARY, TOKENS, WIDTH, HEADS = 11, 6, 8, 2


def sequence_regression(model, loss_fn=None) -> Case:
    """[batch, tokens, width] in and out, with a loss that has no barrier of its own."""
    return fit(
        model,
        loss_fn or (lambda x, y: F.mse_loss(model(x), y)),
        lambda n: call(torch.randn(n, TOKENS, WIDTH), torch.randn(n, TOKENS, WIDTH)),
    )


class Attention(nn.Module):
    """Self-attention by `scaled_dot_product_attention`."""

    def __init__(self, causal=False):
        super().__init__()
        self.causal = causal
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, x, mask=None):
        q, k, v = self.qkv(x).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        heads = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=self.causal)
        return self.out(heads.transpose(1, 2).flatten(2))


@row(Cost(loops=1))
def causal_attention():
    return sequence_regression(Attention(causal=True))


@row(Cost(loops=1))
def masked_attention():
    """A padding mask of its own for every sample."""
    model = Attention()

    def loss(x, y, lengths):
        mask = torch.arange(TOKENS, device=x.device) < lengths[:, None, None, None]
        return F.mse_loss(model(x, mask), y)

    def batch(n):
        x, y = torch.randn(2, n, TOKENS, WIDTH)
        return call(x, y, torch.randint(1, TOKENS + 1, (n,)))

    return fit(model, loss, batch)


@row(Cost(loops=1))
def mask_of_batch_size():
    """A [T, T] mask where T = 12, as the batch is at first: it is no batch, as the second run shows."""
    model, tokens = Attention(), 12

    def loss(x, y, mask):
        return F.mse_loss(model(x, mask), y)

    def batch(n):
        x, y = torch.randn(2, n, tokens, WIDTH)
        return call(x, y, torch.full((tokens, tokens), -torch.inf).triu(diagonal=1))

    return fit(model, loss, batch)


@row(Cost(loops=1))
def batch_at_dim_1():
    """`nn.MultiheadAttention` as it comes: time first. The batch's dim is declared."""
    model = nn.MultiheadAttention(WIDTH, HEADS)
    optimizer = sgd(model)

    def step(x, y):
        optimizer.zero_grad()
        attended, _ = model(x, x, x)
        loss = F.mse_loss(attended, y)
        loss.backward()
        optimizer.step()
        return loss.detach(), attended.detach()

    def batch(n):
        return call(torch.randn(TOKENS, n, WIDTH), torch.randn(TOKENS, n, WIDTH))

    return Case(step, batch, {"model": model}, [optimizer], options={"batch_dims": (1, 1)})


@row(Cost(loops=1))
def batch_moved_to_dim_1():
    """The batch comes at dim 0 and is moved to dim 1 by the step itself."""
    model = nn.ModuleDict({"condition": nn.Linear(3, WIDTH)})
    model["attention"] = nn.MultiheadAttention(WIDTH, HEADS)

    def loss(condition, x):
        x = x.transpose(0, 1) + model["condition"](condition)
        attended, _ = model["attention"](x, x, x, need_weights=False)
        return attended.square().mean()

    return fit(model, loss, lambda n: call(torch.randn(n, 3), torch.randn(n, TOKENS, WIDTH)))


@row(Cost(loops=1))
def attention_weights_averaged():
    """The heads' mean of the attention weights, as `need_weights=True` returns it."""
    model = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)

    def loss(x, y):
        attended, weights = model(x, x, x)
        return F.mse_loss(attended, y) + 0.1 * weights.square().mean()

    return sequence_regression(model, loss)


@row(Cost(loops=1))
def transformer_encoder():
    return sequence_regression(nn.TransformerEncoder(encoder_layer(), num_layers=2))


@row(Cost(loops=1))
def transformer_encoder_with_padding():
    model = nn.TransformerEncoder(encoder_layer(norm_first=True), num_layers=1, enable_nested_tensor=False)

    def loss(x, y, padding):
        return F.mse_loss(model(x, src_key_padding_mask=padding), y)

    def batch(n):
        x, y = torch.randn(2, n, TOKENS, WIDTH)
        return call(x, y, torch.arange(TOKENS) >= torch.randint(1, TOKENS + 1, (n, 1)))

    return fit(model, loss, batch)


def encoder_layer(**options):
    return nn.TransformerEncoderLayer(WIDTH, HEADS, 2 * WIDTH, dropout=0.0, batch_first=True, **options)


@row(Cost(loops=1))
def lstm():
    return recurrent(nn.LSTM(WIDTH, WIDTH, batch_first=True))


@row(Cost(loops=1))
def gru():
    return recurrent(nn.GRU(WIDTH, WIDTH, num_layers=2, bidirectional=True, batch_first=True), directions=2)


def recurrent(cell, directions=1) -> Case:
    model = nn.ModuleDict({"cell": cell, "head": nn.Linear(directions * WIDTH, WIDTH)})

    def loss(x, y):
        hidden, _ = model["cell"](x)
        return F.mse_loss(model["head"](hidden), y)

    return sequence_regression(model, loss)


class LanguageModel(nn.Module):
    """Embedding, position, one causal block; the head is the embedding's own matrix."""

    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, WIDTH)
        self.positions = nn.Embedding(TOKENS, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.attention = Attention(causal=True)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, tokens):
        x = self.tokens(tokens) + self.positions(torch.arange(tokens.shape[1], device=tokens.device))
        return self.head(x + self.attention(self.norm(x)))


@row(Cost(loops=1))
def tied_embeddings():
    """One parameter, two uses, one gradient."""
    model = LanguageModel()

    def loss(tokens):
        logits = model(tokens[:, :-1])
        return F.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="sum") / tokens.numel()

    return fit(model, loss, lambda n: call(torch.randint(VOCABULARY, (n, TOKENS))))


@row(Cost(loops=2, reduce=["return (model(tokens).squeeze(-1).square() * real).sum() / real.sum()"]))
def embedding_with_padding():
    """Padding has no gradient; the rest is averaged over the real tokens: one reduce, of the tokens alone."""
    model = nn.Sequential(nn.Embedding(VOCABULARY, WIDTH, padding_idx=0), nn.Linear(WIDTH, 1))

    def loss(tokens):
        real = (tokens != 0).to(torch.float64)
        return (model(tokens).squeeze(-1).square() * real).sum() / real.sum()

    return fit(model, loss, lambda n: call(torch.randint(4, (n, TOKENS)) * torch.randint(2, (n, TOKENS))))


@row(Cost(loops=1))
def chosen_and_rejected():
    """DPO: `cat([chosen, rejected])` makes a dim of (2 b), and the split takes it apart again."""
    model, reference = LanguageModel(), LanguageModel().requires_grad_(False)
    optimizer = sgd(model)

    def log_probability(model, tokens):
        logits = model(tokens[:, :-1]).log_softmax(dim=-1)
        return logits.gather(-1, tokens[:, 1:, None]).sum(dim=(1, 2))

    def step(chosen, rejected):
        optimizer.zero_grad()
        tokens = torch.cat([chosen, rejected])
        with torch.no_grad():
            expected_chosen, expected_rejected = log_probability(reference, tokens).split(chosen.shape[0])
        logp_chosen, logp_rejected = log_probability(model, tokens).split(chosen.shape[0])
        margin = (logp_chosen - expected_chosen) - (logp_rejected - expected_rejected)
        loss = -F.logsigmoid(0.1 * margin).mean()
        loss.backward()
        optimizer.step()
        return loss.detach(), margin.detach()

    def batch(n):
        chosen, rejected = torch.randint(VOCABULARY, (2, n, TOKENS))
        return call(chosen, rejected)

    return Case(step, batch, {"model": model, "reference": reference}, [optimizer])


@row(Cost(loops=2, reduce=['return {"loss": F.cross_entropy(*shifted, ignore_index=-100), "logits": logits}']))
def hugging_face_batch():
    """A dict with an attention mask and labels of -100, a model that computes its own loss. One reduce."""

    class ForCausalLM(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(VOCABULARY, WIDTH)
            self.attention = Attention()
            self.head = nn.Linear(WIDTH, VOCABULARY)

        def forward(self, input_ids, attention_mask, labels):
            causal = torch.ones(TOKENS, TOKENS, dtype=torch.bool, device=input_ids.device).tril()
            mask = causal & attention_mask[:, None, None, :].bool()
            logits = self.head(self.attention(self.embedding(input_ids), mask))
            shifted = logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
            return {"loss": F.cross_entropy(*shifted, ignore_index=-100), "logits": logits}

    model = ForCausalLM()
    optimizer = sgd(model)

    def step(batch):
        optimizer.zero_grad()
        loss = model(**batch)["loss"]
        loss.backward()
        optimizer.step()
        return loss.detach()

    def batch(n):
        input_ids = torch.randint(VOCABULARY, (n, TOKENS))
        attention_mask = (torch.arange(TOKENS) < torch.randint(2, TOKENS + 1, (n, 1))).long()
        labels = input_ids.masked_fill(attention_mask == 0, -100)
        return call({"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels})

    return Case(step, batch, {"model": model}, [optimizer])
