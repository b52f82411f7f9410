from dse.trace.synthesize.fit import learn
from dse.trace.synthesize.model import TraceModel
