"""The model itself, from config to logits; floor 3.

Letters of shapes: `T` tokens in this forward, all sequences laid end to end; `B` sequences; `D` width; `H` heads;
`N` head part without position; `R` rotary part; `X` both, N+R; `V` value part; `C` compressed keys and values;
`Q` compressed query; `E` experts; `K` experts per token; `F` expert's inner width; `L` layers; `P` pages; `S` slots in
a page, or tokens that are attended to; `W` vocabulary; `O` any output width.
"""
