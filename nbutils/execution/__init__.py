"""Entry points beside the stages: a grid of jobs (`cluster`), Colab's set-up (`colab`), committed tables (`tables`).

`check_gpu` checks a card, on models of `random_models`; `badges` writes where the project lives; `facts` hands on a run
without its texts, `site` makes a web site of it, of `pages`.
"""
