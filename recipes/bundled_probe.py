import time
from collections import Counter
from coderv2.data import read, licences, filters, dedup, pipeline
from coderv2.data.read import dependencies_of
t=time.time()
deps=dependencies_of("coderv2"); print(sorted(deps))
HELD={"click","starlette","httpx","h11","pluggy","jinja2"}
SKIP=r"/(tests?|testing/_internal|_vendor|vendored?|_vendored|site-packages|lib2to3|encodings|pydoc_data|idlelib|turtledemo|distutils|lexers|_inductor|_dynamo)/"
docs=[d for d in read.standard_library()]+list(read.packages(deps))
dropped=[]
kept=list(pipeline.run(docs,[licences.permissive_only,filters.outside(SKIP),filters.apply(*filters.CODE_RULES),dedup.exact],dropped))
print(time.time()-t)
kept=list(pipeline.run(kept,[dedup.near],dropped))
print(time.time()-t)
print(pipeline.reasons(dropped).most_common(40))
c=Counter();n=Counter()
for d in kept: c[d.source]+=len(d.text);n[d.source]+=1
for s,b in c.most_common(): print(s,b,n[s])
print(sum(c.values()))
